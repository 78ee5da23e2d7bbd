"""A model of time for the CUDA kernels, for which no GPU is needed: ``python -m benchmarks.gpu.model_time``.

It compiles the kernels that a call would start on a GPU, disassembles them, counts the instructions that they execute,
and predicts the time of each from what it waits for longest. docs/gpu-time-model.md says how it counts and what it
leaves out. It needs nvcc, g++, and nvdisasm and cuobjdump, which Triton brings.

``launches`` asks the library for its plan, ``machine_code`` compiles, ``sass`` reads, ``trips`` says how often loops
run, ``executed`` counts, ``devices`` has the data of GPUs and ``bounds`` the formulas. After a change of a kernel only
``trips`` needs a change, and only where a loop is new or its ``for`` is written differently; its docstring says how.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ht_kernels.errors import InputError

from . import bounds, executed, launches, machine_code, trips
from .devices import DEVICES, Device
from .launches import Call, Launch

BATCHES = (1, 8, 32, 64)
"""The batches of the table."""


@dataclass(frozen=True)
class Prediction:
    """What is predicted for one kernel: its launch, what a warp executes, its work, seconds by bound, and slots."""

    launch: Launch
    counts: executed.Executed
    work: bounds.Work
    seconds: dict[str, float]
    slots: int
    slow: int

    @property
    def bound(self) -> str:
        """What it waits for longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def time(self) -> float:
        return self.seconds[self.bound]

    @property
    def per_64(self) -> float:
        """Instructions of all warps for 64 slots of a tile."""
        return self.counts.instructions * self.launch.warps * self.launch.blocks / self.slots * 64


def predict(call: Call, device: Device, folder: Path, program: Path | None = None) -> list[Prediction]:
    """Predict the kernels of a call. Compiled files are kept in ``folder``.

    Raises:
        InputError: the library refuses the call.
        RuntimeError: a program is missing or fails.
        ValueError: the kernels have loops whose trips are not declared.
    """
    started = launches.ask(program or launches.build(folder), call, device)
    code = machine_code.compiled(started.launches, device.architecture, folder)
    return [_kernel(call, device, started, launch, code[launch.symbol]) for launch in started.launches]


def _kernel(
    call: Call, device: Device, started: launches.Started, launch: Launch, compiled: machine_code.Compiled
) -> Prediction:
    if launch.function not in trips.KERNELS:
        raise ValueError(f"benchmarks/gpu/trips.py does not have the kernel {launch.function}: add it there")
    declared = trips.KERNELS[launch.function](call, started.plan, launch)
    counts = executed.count(compiled.code, declared.loops, declared.parts, machine_code.SOURCES)
    work = bounds.Work(
        launch.blocks,
        launch.warps,
        compiled.registers,
        launch.shared,
        counts.kinds,
        counts.multiplied,
        counts.shared_bytes,
        counts.waits,
        declared.l2,
        declared.dram + (declared.again if declared.again > device.l2_bytes else 0),
    )
    return Prediction(launch, counts, work, bounds.bounds(work, device), declared.slots, compiled.code.slow)


def report(call: Call, device: Device, predictions: Sequence[Prediction], lines: int) -> list[str]:
    """The predictions of one call as lines of text."""
    out = [f"{device.name} (sm_{device.architecture}), predicted, {call}"]
    for one in predictions:
        counts, work = one.counts, one.work
        out += [
            "",
            one.launch.name.partition("(")[0].removeprefix("void ht::cuda::"),
            f"  {work.blocks} blocks of {work.warps} warps with {work.registers} registers a thread and "
            f"{work.shared:,} bytes of shared memory; a multiprocessor holds {bounds.resident(work, device)} at once",
            f"  {one.per_64:,.0f} instructions per 64 slots of a tile, {counts.instructions:,.0f} per warp; "
            f"{one.slow} lie on slow paths and are left out",
            "  " + ", ".join(f"{kind} {number:,.0f}" for kind, number in counts.kinds.most_common() if number >= 0.5),
            f"  {work.dram / 1e6:.2f} MB of DRAM, {work.l2 / 1e6:.2f} MB of L2, "
            f"{work.shared_bytes * work.warps * work.blocks / 1e6:.2f} MB of shared memory; a warp waits for loads "
            f"{work.waits:.0f} times",
            "  us: " + ", ".join(f"{name} {1e6 * value:.1f}" for name, value in one.seconds.items()),
            f"  predicted {1e6 * one.time:.1f} us, bound by {one.bound}",
        ]
        out += [f"    {number:8,.0f} per warp at {_words(place)}" for place, number in counts.lines.most_common(lines)]
    total, floor = sum(one.time for one in predictions), bounds.floor(call.x_bytes, device)
    out += ["", f"predicted {1e6 * total:.1f} us together; a copy of x takes {1e6 * floor:.1f} us"]
    return out


def _words(place: str) -> str:
    """A source line with its text, where the file is one of the library's."""
    name, _, line = place.rpartition(":")
    file = machine_code.SOURCES / name
    return f"{place}  {file.read_text().splitlines()[int(line) - 1].strip()}" if file.exists() else place


def table(call: Call, folder: Path) -> list[str]:
    """Predictions for every GPU and batch as rows of markdown. GPUs without tensor cores for bfloat16 take float16."""
    program = launches.build(folder)
    out = [
        "| GPU | dtype | B | tokens of a tile, warps at once | predicted, us | of it, bound by | copy of x, us |",
        "|---|---|--:|---|--:|---|--:|",
    ]
    for device in DEVICES.values():
        dtype = "float16" if call.dtype == "bfloat16" and device.architecture < 80 else call.dtype
        for batch in BATCHES:
            sized = replace(call, batch=batch, dtype=dtype)
            found = predict(sized, device, folder, program)
            parts = "; ".join(f"{one.launch.function} {1e6 * one.time:.1f}, {one.bound}" for one in found)
            tiles = "; ".join(_tile(one, launches.ask(program, sized, device).plan, device) for one in found)
            total, floor = sum(one.time for one in found), bounds.floor(sized.x_bytes, device)
            out.append(
                f"| {device.name} | {dtype} | {batch} | {tiles} | {1e6 * total:.1f} | {parts} | {1e6 * floor:.1f} |"
            )
    return out


def _tile(one: Prediction, plan: trips.Plan, device: Device) -> str:
    """The tokens of a tile, and the warps that a multiprocessor has at once: of as many blocks as fit and there are."""
    rows = plan["down_rows" if one.launch.function == "down_project" else "mix_rows"]
    blocks = min(bounds.resident(one.work, device), -(-one.work.blocks // device.multiprocessors))
    return f"{rows}, {blocks * one.work.warps}"


def measured(call: Call, predictions: Sequence[Prediction]) -> list[str]:
    """What the GPU that is here says of the same call."""
    from . import measured as here

    total = sum(one.time for one in predictions)
    out = [f"measured {1e6 * here.seconds(call):.1f} us in a CUDA graph, predicted {1e6 * total:.1f} us"]
    executed_there = here.instructions(call)
    for one in predictions:
        if one.launch.function in executed_there:
            counted = one.counts.instructions * one.launch.warps * one.launch.blocks
            there = executed_there[one.launch.function]
            out.append(f"{one.launch.function}: {there:,.0f} instructions by ncu, {counted:,.0f} counted here")
    return out


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benchmarks.gpu.model_time", description=__doc__.partition("\n")[0])
    found.add_argument("--device", default="H200", choices=DEVICES, help="the GPU (default: %(default)s)")
    found.add_argument("--batch", type=int, default=64, metavar="B", help="images (default: %(default)s)")
    found.add_argument(
        "--grid", default="14,14", metavar="H,W", help="patches of an image down and across (default: %(default)s)"
    )
    found.add_argument("--dim", type=int, default=768, metavar="D", help="width of a token (default: %(default)s)")
    found.add_argument(
        "--bottleneck", type=int, default=64, metavar="C", help="width of the bottleneck (default: %(default)s)"
    )
    found.add_argument("--norm", action="store_true", help="the LayerNorm of the next block is wanted beside out")
    found.add_argument("--dtype", default="bfloat16", choices=launches.DTYPES, help="of tokens (default: %(default)s)")
    found.add_argument(
        "--lines",
        type=int,
        default=0,
        metavar="N",
        help="print the N source lines that execute most, inlined functions included",
    )
    found.add_argument("--table", action="store_true", help="all GPUs and batches, as a table of markdown")
    found.add_argument("--measure", action="store_true", help="time the call on the GPU that is here as well")
    found.add_argument("--cache", type=Path, metavar="DIR", help="keep what was compiled there (default: nowhere)")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run with the arguments ``argv``; return 0, 1 when the kernels cannot be read, or 2 for bad input."""
    arguments = parser()
    args = arguments.parse_args(argv)
    sides = args.grid.split(",")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        arguments.error(f"argument --grid: must be two numbers above 0 such as 14,14, got {args.grid}")
    for name in ("batch", "dim", "bottleneck"):
        if getattr(args, name) < 1:
            arguments.error(f"argument --{name}: must be above 0, got {getattr(args, name)}")
    if missing := machine_code.missing():
        arguments.error(missing)
    if args.measure:
        import torch

        if args.table or not torch.cuda.is_available():
            arguments.error("argument --measure: needs a GPU that torch sees, and one call, so no --table")
    call = Call(args.batch, args.dtype, *map(int, sides), dim=args.dim, channels=args.bottleneck, norm=args.norm)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.cache or Path(temporary)
        try:
            if args.table:
                lines = table(call, folder)
            else:
                device = DEVICES[args.device]
                predictions = predict(call, device, folder)
                lines = report(call, device, predictions, args.lines)
                lines += measured(call, predictions) if args.measure else []
        except InputError as error:
            arguments.error(str(error))
        except (RuntimeError, ValueError) as error:
            print(error, file=sys.stderr)
            return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
