"""Text files are UTF-8 whatever the locale, and names that a terminal cannot show are printed all the same."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest

import ht_kernels
from ht_kernels.cli import main
from ht_kernels.files import utf8

PACKAGE = Path(ht_kernels.__file__).parent


def opens_text(call: ast.Call) -> bool:
    """Whether a call is ``read_text``, ``write_text``, or ``open`` in a text mode, of the built-in or of a path."""
    method, function = getattr(call.func, "attr", ""), getattr(call.func, "id", "")
    if method in ("read_text", "write_text"):
        return True
    if "open" not in (method, function):
        return False
    modes = call.args if method else call.args[1:]
    if not modes:
        return True
    return isinstance(modes[0], ast.Constant) and set(str(modes[0].value)) <= set("rwaxt+")


def test_every_text_file_names_its_encoding() -> None:
    missing = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and opens_text(node) and not any(k.arg == "encoding" for k in node.keywords):
                missing.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert missing == []


def test_names_that_the_terminal_cannot_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(said, encoding="ascii"))
    assert main(["phantom", "--size", "32", "--output", str(tmp_path / "naïve")]) == 0
    assert b"/na\\xefve\n" in said.getvalue()


def test_names_that_are_not_text() -> None:
    """Under an ASCII locale Python spells each byte of such a name with a surrogate."""
    assert utf8("na\udcc3\udcafve") == "naïve".encode()
