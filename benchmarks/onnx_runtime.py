"""The published graph in ONNX Runtime, exported by torch.onnx with its Fourier transforms, against our export.

``python -m benchmarks.onnx_runtime --output DIR`` writes onnx_runtime.json, and a table beside it in Markdown, in three
minutes. Both graphs have the same weights and take the same uint8 frame. They and our kernels run in turn in one
process, each on the same number of threads. torch.onnx needs onnxscript, which the package itself does not need: pip
install onnxscript.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

import ht_kernels as ht
from ht_kernels.bench.measure import Call, interleave
from ht_kernels.bench.shake import shake
from ht_kernels.bench.text import milliseconds, times
from ht_kernels.clip.injection import adapters
from ht_kernels.environment import version
from ht_kernels.errors import InputError
from ht_kernels.published import PublishedHTCLIP

from . import figures

BACKBONES = ("timm/vit_tiny_patch16_224", "timm/vit_base_patch16_224")
_BURST = 0.5
"""The length of a burst of calls in seconds; see :func:`_burst`."""
LABELS = {"published": "ONNX Runtime, published graph", "ours": "ONNX Runtime, our graph", "kernels": "our kernels"}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. Return exit status 0, or 2 for bad input or if onnxscript is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.onnx_runtime", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for onnx_runtime.json and .md")
    parser.add_argument("--seconds", type=float, default=60, help="to time each model (default: %(default)s)")
    parser.add_argument("--backbone", nargs="+", metavar="NAME", default=BACKBONES, help="default: %(default)s")
    args = parser.parse_args(argv)
    if version("onnxscript") is None:
        print("exporting the published graph needs onnxscript: pip install onnxscript", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = []
    try:
        for name in args.backbone:
            rows.append(measure(name, args.seconds))
        versions = {name: version(name) for name in ("onnx", "onnxruntime", "onnxscript")}
        path, threads = args.output / "onnx_runtime.json", torch.get_num_threads()
        figures.write(path, rows, table(rows), threads=threads, versions=versions)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(table(rows)))
    return 0


class FromFrames(nn.Module):
    """The published model with its preprocessing in front. It takes a gray uint8 frame (1, 1, H, W)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.model((frames.float() / 255).expand(-1, 3, -1, -1))
        return logits


def measure(backbone: str, seconds: float) -> dict[str, Any]:
    """Measure both graphs and our kernels on one model.

    Returns the seconds per frame of each, the operators of both graphs, and the largest errors of the logits against
    the published model.
    """
    torch.manual_seed(0)
    model = ht.HTCLIP(backbone, task="segmentation", num_classes=2).eval()
    for adapter in adapters(model.tower).values():
        shake(adapter)
    theirs, folded = FromFrames(PublishedHTCLIP.like(model)).eval(), ht.fold(model)
    frame = torch.randint(0, 256, (1, 1, *model.tower.image_size), dtype=torch.uint8)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        expected = theirs(frame).numpy()
        paths = {name: Path(folder) / f"{name}.onnx" for name in ("published", "ours")}
        torch.onnx.export(theirs, (frame,), paths["published"], dynamo=True, opset_version=20, verbose=False)
        ht.deploy.export_onnx(folded, paths["ours"])
        operators = {name: dict(Counter(n.op_type for n in onnx.load(path).graph.node)) for name, path in paths.items()}
        calls: dict[str, Call] = {name: _session(path, frame) for name, path in paths.items()}

        def kernels() -> np.ndarray:
            result: np.ndarray = folded(frame).numpy()
            return result

        calls["kernels"] = kernels
        scale = np.abs(expected).max()
        apart = {name: float(np.abs(call() - expected).max() / scale) for name, call in calls.items()}
        bursts, counts = {}, {}
        for name, call in calls.items():
            bursts[name], counts[name] = _burst(call)
        timings = interleave(bursts, seconds)
    return {
        "model": backbone,
        "seconds": {name: timing.median / counts[name] for name, timing in timings.items()},
        "quartiles": {name: (t.lower / counts[name], t.upper / counts[name]) for name, t in timings.items()},
        "samples": timings["ours"].samples,
        "largest_error": apart,
        "operators": operators,
    }


def _session(path: Path, frame: Tensor) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: frame.numpy()}
    return lambda: session.run(None, inputs)[0]


def _burst(call: Call) -> tuple[Call, int]:
    """Return a burst of calls that takes half a second, and the number of calls in it.

    After a call, the threads of ONNX Runtime and of torch keep spinning for milliseconds on cores that the next call
    needs. In a burst, this affects only the first calls.
    """
    start = time.perf_counter()
    call()
    count = max(1, round(_BURST / (time.perf_counter() - start)))
    return lambda: [call() for _ in range(count)][-1], count


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of a Markdown table of the figures, with medians in milliseconds per frame."""
    lines = [f"| | {' | '.join(LABELS.values())} | our graph over the published | DFT nodes | nodes |"]
    lines += ["|---|--:|--:|--:|--:|--:|--:|"]
    for row in rows:
        published, ours = (row["operators"][name] for name in ("published", "ours"))
        cells = [row["model"], *(milliseconds(row["seconds"][name]) for name in LABELS)]
        cells.append(times(row["seconds"]["published"] / row["seconds"]["ours"]))
        cells.append(f"{published.get('DFT', 0)} and {ours.get('DFT', 0)}")
        cells.append(f"{sum(published.values())} and {sum(ours.values())}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
