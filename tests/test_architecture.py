"""docs/architecture.md is held to account: its walk is a walk, and its recipes name what is there."""

from __future__ import annotations

import re

import pytest

from ht_kernels.video.stream import STAGES
from test_docs import PAGES, ROOT, is_there, named_files

PAGE = PAGES["docs/architecture.md"]
MOST_HOPS = 10


def section(title: str) -> str:
    """What stands under a heading."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"there is no section '{title}'"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, its head left out."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def defines(source: str, name: str) -> bool:
    """Whether a file has the function, class, macro or table of that name."""
    if re.search(rf"^\s*(?:def|class|#define) {name}\b", source, re.MULTILINE):
        return True
    if re.search(rf"^HT_TABLE\({name.removeprefix('kernels_')}\)$", source, re.MULTILINE):
        return True
    return re.search(rf"^(?:class|[\w:<> ]+[ &*]){name}(?:\(| \{{)", source, re.MULTILINE) is not None


def uses(source: str, name: str) -> bool:
    """Whether a file calls or names it, other than where it defines it."""
    calls = len(re.findall(rf"\b{name}\b(?=[(<.;,)\]])", source))
    return calls > (1 if defines(source, name) else 0)


def test_every_file_is_there() -> None:
    assert [name for name in named_files(PAGE) if not is_there(name)] == []
    rooms = re.findall(r"^((?:[\w.]+/)+[\w.]*|[\w/]+\.\w+)(?= )", section("The rooms"), re.MULTILINE)
    assert len(rooms) > 15
    assert [name for name in rooms if not (ROOT / name).exists()] == []


def test_the_walk_of_x() -> None:
    """At most ten hops, no file twice, and each file calls what the next one has."""
    hops = rows(section("The walk of x"))
    files, names, calls = ([re.search(r"`([^`]+)`", hop[i]) for hop in hops] for i in (1, 2, 3))
    paths = [found[1] for found in files if found]
    assert len(paths) == len(hops) and len(hops) - 1 <= MOST_HOPS
    assert len(set(paths)) == len(paths)
    assert paths[0] == "ht_kernels/nn/adapter.py" and paths[-1].startswith("csrc/cpu/")
    for i, path in enumerate(paths):
        source, name = (ROOT / path).read_text(), names[i]
        assert name is not None and defines(source, name[1]), f"{path} does not have {hops[i][2]}"
        if i + 1 < len(paths):
            call, following = calls[i], (ROOT / paths[i + 1]).read_text()
            assert call is not None and uses(source, call[1]), f"{path} does not call {hops[i][3]}"
            assert defines(following, call[1]), f"{paths[i + 1]} does not have {call[1]}"


def test_the_walk_of_a_frame() -> None:
    """Its steps are the stages that a stream reports."""
    steps = [step[0] for step in rows(section("The walk of a frame"))]
    assert [step for step in steps if step != "hand over"] == list(STAGES)


@pytest.mark.parametrize("title", re.findall(r"^## (Add an? .*)$", PAGE, re.MULTILINE))
def test_recipes(title: str) -> None:
    """Every row names files that are there, and in them the names that the row says; one row is not enough."""
    recipe = rows(section(title))
    assert len(recipe) >= 2
    for first, change in recipe:
        files = named_files(first)
        assert files and all(map(is_there, files)), first
        sources = [(ROOT / file).read_text() for file in files]
        for name in re.findall(r"`(\w+)`", change):
            assert any(re.search(rf"\b{name}\b", source) for source in sources), f"{first} has no {name}"


def test_the_recipes_are_there() -> None:
    for what in ("a weight", "a backend", "a tower", "a source", "an error message"):
        assert section(f"Add {what}")
