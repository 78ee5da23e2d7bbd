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
SPILLED = {"80": 0, "89": 160, "90": 24}
"""Bytes per thread that kernels for images of more than 32x32 spill, by compute capability; no others do. On 8.0 they
are not compiled here."""
ARCHS = {"installed": ["80", "89", "90"], "3.6": ["90"]}
"""The compute capabilities to compile for, by the version of Triton."""


def launches(path: Path) -> bool:
    """Whether a file has the kernel that it is named after."""
    source = path.read_text()
    return "@triton.jit" in source and f"def {path.stem}(" in source


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", ["installed", "3.6"])
def test_machine_code(version: str) -> None:
    """Compiled without a GPU for the arguments of real launches: tiles fit every architecture, and registers spill only
    where images are large."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"}
    if version == "3.6":
        folder = os.environ.get("HT_KERNELS_TRITON_36")
        if not folder:
            pytest.skip("HT_KERNELS_TRITON_36 does not name a folder with Triton 3.6")
        environment["PYTHONPATH"] = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
    script = ROOT / "tests/helpers/compile_triton.py"
    done = subprocess.run([sys.executable, script, *ARCHS[version]], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert {row[0] for row in rows} == set(ARCHS[version])
    assert {row[2] for row in rows} == {path.stem for path in KERNELS.glob("*.py") if launches(path)}
    for arch, case, kernel, tile, shared, _, spilled in rows:
        allowed = SPILLED[arch] if "ALL_HEIGHT=64,ALL_WIDTH=64" in tile else 0
        assert int(spilled) <= allowed and int(shared) <= SHARED, (arch, case, kernel, tile, shared, spilled)
