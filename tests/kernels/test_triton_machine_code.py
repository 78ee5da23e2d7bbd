"""The machine code that Triton and ptxas make of the kernels, for GPUs that need not be here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ht_kernels
from helpers import ROOT

pytest.importorskip("triton")

KERNELS = Path(ht_kernels.__file__).parent / "backends/triton/kernels"
SHARED = 99 << 10
"""Bytes that a block may have on compute capability 8.6 and 8.9, the least of all GPUs that the backend takes."""
SPILLED = {"80": 160, "89": 160, "90": 24}
"""Bytes per thread that kernels for images of more than 32x32 spill, by compute capability; no others do."""
TARGETS = {
    "installed": (
        "90:float32,base,training,spectral",
        "90:bfloat16,large",
        "90:float32,37x37,backward",
        "89:float32,base",
        "89:bfloat16,large",
        "89:float32,37x37,backward",
    ),
    "3.6": (
        "90:tf32,base,training,spectral",
        "90:bfloat16,base,training,spectral",
        "90:bfloat16,large",
        "90:float32,24x24,backward",
        "80:float32,base",
        "80:bfloat16,large",
    ),
}
"""What is compiled, by the version of Triton: for 9.0 all kernels, and besides what needs most registers."""


SEARCHED = ("80:bfloat16,base", "90:bfloat16,base", "90:float32,base")
"""Of what every tile is compiled that the search tries: inference of one adapter."""


def launches(path: Path) -> bool:
    """Whether a file has the kernel that it is named after."""
    source = path.read_text()
    return "@triton.jit" in source and f"def {path.stem}(" in source


def compiled(*arguments: str, environment: dict[str, str]) -> list[list[str]]:
    """The lines that helpers/compile_triton.py prints, without an interpreter."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1", **environment}
    script = ROOT / "tests/helpers/compile_triton.py"
    done = subprocess.run([sys.executable, script, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.timeout(600)
def test_no_tile_of_the_search_spills() -> None:
    rows = compiled("--all", *SEARCHED, environment={})
    assert {f"{row[0]}:{row[1]}" for row in rows} == set(SEARCHED)
    for kernel in ("down_project", "stacked_down_project", "mix_and_up_project"):
        assert len({row[3] for row in rows if row[2] == kernel}) >= 5
    for row in rows:
        assert int(row[-1]) == 0 and int(row[-3]) <= SHARED, row


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", ["installed", "3.6"])
def test_machine_code(version: str) -> None:
    """Compiled without a GPU for the arguments of real launches: tiles fit every architecture, and registers spill only
    where images are large."""
    environment = {}
    if version == "3.6":
        folder = os.environ.get("HT_KERNELS_TRITON_36")
        if not folder:
            pytest.skip("HT_KERNELS_TRITON_36 does not name a folder with Triton 3.6")
        environment["PYTHONPATH"] = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
    rows = compiled(*TARGETS[version], environment=environment)
    assert {f"{row[0]}:{row[1]}" for row in rows} == set(TARGETS[version])
    assert {row[2] for row in rows} == {path.stem for path in KERNELS.glob("*.py") if launches(path)}
    for arch, case, kernel, tile, shared, _, spilled in rows:
        allowed = SPILLED[arch] if "ALL_HEIGHT=64,ALL_WIDTH=64" in tile else 0
        assert int(spilled) <= allowed and int(shared) <= SHARED, (arch, case, kernel, tile, shared, spilled)
