"""The README keeps its word: its Python runs, top to bottom, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ht_kernels
from ht_kernels.cli import COMMANDS

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))
    assert blocks
    namespace: dict[str, object] = {}
    try:
        for block in blocks:
            line = README.count("\n", 0, block.start(1))
            # Blank lines in front give errors the README's own line numbers.
            exec(compile("\n" * line + block[1], "README.md", "exec"), namespace)
    finally:
        ht_kernels.set_backend(None)
    assert namespace["difference"] < 1e-4  # type: ignore[operator]


def test_begins_with_the_two_commands() -> None:
    lines = README.splitlines()
    assert lines[1:3] == ['pip install ".[all]" && ht-kernels demo', 'pip install ".[test]" && pytest']


def test_every_command_is_described() -> None:
    assert set(re.findall(r"^\| `ht-kernels (\w+)", README, re.MULTILINE)) == set(COMMANDS)
