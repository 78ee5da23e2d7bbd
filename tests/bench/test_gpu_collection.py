"""The tests that run on a GPU need torch, numpy, pytest, hypothesis and timm there, and nothing else of ours."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

from helpers import ROOT
from helpers.bare_machine import ABSENT

RUNS_ON_A_GPU = re.compile(r'^needs_gpu = |^DEVICE = "cuda"', re.MULTILINE)

COLLECT = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT}))  # importing one of them then fails
import pytest
sys.exit(pytest.main([*sys.argv[1:], "--collect-only", "--assert=plain"]))
"""


def files_for_a_gpu() -> list[Path]:
    return [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if RUNS_ON_A_GPU.search(path.read_text())]


def test_the_run_book_names_them() -> None:
    patterns = re.findall(r"tests/\w+/test_[\w*]+\.py", (ROOT / "docs/gpu-run-book.md").read_text())
    files = [str(path.relative_to(ROOT)) for path in files_for_a_gpu()]
    assert not [file for file in files if not any(fnmatch(file, pattern) for pattern in patterns)]


def test_they_are_collected_without_the_extras() -> None:
    files = files_for_a_gpu()
    assert {"test_cuda.py", "test_graph.py", "test_triton.py"} <= {path.name for path in files}
    done = subprocess.run([sys.executable, "-c", COLLECT, *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    for path in files:
        assert f"{path.name}::" in done.stdout
