"""``ht-kernels info``: what is installed, what can run, what is missing and how to get it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import ht_kernels
from ht_kernels.words import counted

HELP = "print versions, backends, what is missing and how to get it"
EXAMPLE = "ht-kernels info --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the same as JSON, for bug reports")


def run(args: argparse.Namespace) -> int:
    facts = _facts()
    print(json.dumps(facts, indent=2) if args.json else "\n".join(_lines(facts)))
    return 0


def _facts() -> dict[str, Any]:
    """All that is printed, as plain values that JSON can hold."""
    from ht_kernels import environment
    from ht_kernels.deploy import here
    from ht_kernels.packages import installed

    if installed("torch"):
        import torch  # noqa: F401  # it then tells what it sees

    return {
        **environment.describe(),
        "location": str(Path(ht_kernels.__file__).parent),
        "runtimes": here.runtimes(),
        "runtimes_of_checkpoints": here.runtimes_of_checkpoints(),
        "openvino_devices": here.openvino_devices(),
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    cpu, core = facts["cpu"], facts["compiled_core"]
    threads, isa = counted(cpu["threads"], "thread"), cpu["torch_isa"]
    rows = [
        ("ht_kernels", f"{facts['ht_kernels']} in {facts['location']}"),
        ("Python", f"{facts['python']} on {facts['platform']}"),
        ("CPU", f"{cpu['model']}, {counted(cpu['cores'], 'core')}, {threads}" + f", torch uses {isa}" * bool(isa)),
        *[("GPU", _gpu(gpu)) for gpu in facts["gpus"]],
        *([] if facts["gpus"] or not isa else [("GPU", "none that torch can use")]),
        *([] if isa else [("torch", "not installed; sessions of exported files, streams and predict run without it")]),
        ("compiled core", _core(core)),
        *([] if "error" in core else [("CUDA kernels", _cuda_kernels(core))]),
        *[("environment", f"{name}={value}") for name, value in facts["environment"].items()],
    ]
    asked = facts["environment"].get("HT_KERNELS_BACKEND")
    if asked and isa and asked not in facts["backends"]:
        rows.append(("", f"there is no backend '{asked}', so every call of an adapter raises an error"))
    lines = _table(rows)

    if isa:
        lines += ["", "Backends, best first"]
        lines += _table([(name, f"no: {why}" if why else "available") for name, why in facts["backends"].items()], 2)
    if "libgomp" in core.get("error", ""):
        lines.append("  To load the compiled core: apt install libgomp1, or dnf install libgomp; torch brings one too.")
    elif "error" in core:
        # The source tree's own ht_kernels/ hides an installed one from a Python started there.
        lines.append("  To build the compiled core: pip install -e . in the source tree, with g++ installed.")

    runtimes = facts["runtimes"]
    lines += ["", "Runtimes of exported files and streams, best first"]
    lines += _table([(name, f"no: {why}" if why else _runtime(name, facts)) for name, why in runtimes.items()], 2)
    of_checkpoints = [name for name, why in facts["runtimes_of_checkpoints"].items() if not why and name != "tensorrt"]
    if of_checkpoints:
        lines.append(f"  ht-kernels stream runs a checkpoint by {of_checkpoints[0]}, unless --runtime names another.")

    lines += ["", "Packages"]
    lines += _table([(name, found) for name, found in facts["packages"].items() if found], 2)

    lines += ["", "Optional extras"]
    missing = facts["missing_extras"]
    if missing is None:
        lines.append("  unknown: ht_kernels runs from source and is not installed (pip install -e .)")
    elif not missing:
        lines.append("  all there")
    else:
        lines += _table([(extra, f"pip install {' '.join(names)}") for extra, names in missing.items()], 2)
    return lines


def _core(core: dict[str, Any]) -> str:
    if "error" in core:
        return f"not usable: {core['error']}"
    openmp = "OpenMP" if core["openmp"] else "no OpenMP, one thread"
    isa = f"{core['isa_in_use']} of {' '.join(core['isa_levels'])}"
    return f"{core['version']}, {core['compiler']}, {openmp}, {isa}"


def _runtime(name: str, facts: dict[str, Any]) -> str:
    """What is to say of a runtime that is here: for OpenVINO its devices, and what keeps checkpoints from it."""
    said = "available"
    if name == "openvino":
        said += " on " + ", ".join(f"{device} ({full})" for device, full in facts["openvino_devices"].items())
    why = facts["runtimes_of_checkpoints"][name]
    return f"{said}, for exported files only: {why}" if why else said


def _gpu(gpu: dict[str, Any]) -> str:
    kernels = "no CUDA kernels: " + gpu["without_cuda_kernels"] if gpu["without_cuda_kernels"] else "CUDA kernels built"
    return f"{gpu['name']}, {gpu['memory_gib']} GiB, compute capability {gpu['capability']}, {kernels}"


def _cuda_kernels(core: dict[str, Any]) -> str:
    archs = core["cuda_archs"]
    if not archs:
        return "not built"
    code = " ".join(arch.removesuffix("-real") for arch in archs if not arch.endswith("-virtual"))
    ptx = " ".join(arch.removesuffix("-virtual") for arch in archs if not arch.endswith("-real"))
    parts = [f"machine code for {code}"] * bool(code) + [f"PTX of {ptx}"] * bool(ptx)
    return f"{', '.join(parts)}, by nvcc {core['nvcc']}"


def _table(rows: list[tuple[str, str]], indent: int = 0) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"{'':{indent}}{name:{width}}  {value}" for name, value in rows]
