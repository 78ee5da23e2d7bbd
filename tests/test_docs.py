"""The README and docs/ keep their word: their Python runs, and commands, options, files and tests they name exist."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import ht_kernels
from benchmarks import figures
from ht_kernels.cli import COMMANDS
from ht_kernels.cli.parser import build
from ht_kernels.published import VARIANTS
from ht_kernels.video.stream import STAGES

ROOT = Path(__file__).resolve()
while not (ROOT / "pyproject.toml").exists():
    ROOT = ROOT.parent

PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]}
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_WITH_PYTHON = sorted(name for name, text in PAGES.items() if "\n```python\n" in text)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("page", _WITH_PYTHON)
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a page from top to bottom, with the names of those above."""
    monkeypatch.chdir(tmp_path)
    text, namespace = PAGES[page], {}
    try:
        for block in _BLOCK.finditer(text):
            if block[1] == "python":
                # Blank lines in front give errors the page's own line numbers.
                exec(compile("\n" * text.count("\n", 0, block.start(2)) + block[2], page, "exec"), namespace)
    finally:
        ht_kernels.set_backend(None)
    if "difference" in namespace:
        assert namespace["difference"] < 1e-4


def test_the_pages_with_python_are_found() -> None:
    assert {"README.md", "docs/start.md", "docs/guides/drop-in.md", "docs/guides/live-video.md"} <= set(_WITH_PYTHON)


def test_the_first_block_of_the_readme_is_the_two_commands() -> None:
    """CI reads them there, too."""
    first = _BLOCK.search(PAGES["README.md"])
    assert first is not None
    assert first[2].splitlines() == ['pip install ".[all]" && ht-kernels demo', 'pip install ".[test]" && pytest']


def test_every_command_is_described() -> None:
    rows = re.findall(r"^\| `ht-kernels (\w+)", PAGES["docs/guides/command-line.md"], re.MULTILINE)
    assert sorted(rows) == sorted(COMMANDS)


@pytest.mark.parametrize("page", sorted(PAGES))
def test_commands_exist(page: str) -> None:
    for line in _commands(PAGES[page]):
        problem = _problem(line)
        assert problem is None, f"{page}: {line}: {problem}"


def test_commands_that_do_not_exist_are_seen() -> None:
    wrong = "ht-kernels fly", "ht-kernels stream a --fast", "python -m benchmarks.none", "python -m benchmarks.gpu --no"
    for line in (*wrong, "pytest tests/test_none.py", 'pip install ".[none]" && pytest', "python examples/none.py"):
        assert _problem(line), line


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_and_files_exist(page: str) -> None:
    """Files are named in backticks from the root; links are relative to the page."""
    text = _BLOCK.sub("", PAGES[page])
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    here = [link for link in links if link and "://" not in link]
    missing = [link for link in here if not (ROOT / page).parent.joinpath(link).exists()]
    missing += [name for name in named_files(text) if not is_there(name)]
    assert missing == []


@pytest.mark.parametrize("page", sorted(PAGES))
def test_tests_exist(page: str) -> None:
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for name in re.findall(r"`(test_\w+)`", PAGES[page]):
        assert f"def {name}(" in written, name


def test_the_readme_says_of_speed_what_the_benchmarks_page_says() -> None:
    """Each row's ratios stand in one row there, in a section of the same commit."""
    rows = re.findall(r"^\| (.*[\d.]+x .*) \| ([0-9a-f]{7}) \|$", PAGES["README.md"], re.MULTILINE)
    assert len(rows) == 5
    sections = PAGES["docs/benchmarks.md"].split("\n## ")
    for row, commit in rows:
        ratios = set(re.findall(r"[\d.]+x", row))
        lines = [line for part in sections if f"Commit {commit}" in part for line in part.splitlines()]
        assert any(ratios <= set(re.findall(r"[\d.]+x", line)) for line in lines if line.startswith("|")), row


def test_the_glossary_has_the_variants_and_the_stages() -> None:
    """Each entry is a paragraph that begins with its word, of two sentences or three."""
    entries = dict(
        re.findall(r"^\*\*(\w[\w ]*)\*\*(.*?)(?=\n\n|\Z)", PAGES["docs/glossary.md"], re.MULTILINE | re.DOTALL)
    )
    assert {*VARIANTS, "adapter", "tower", "grid", "fold", "session", "gate"} <= entries.keys() and len(entries) > 20
    assert all(stage in entries["stage"] for stage in STAGES)
    for word, said in entries.items():
        sentences = re.findall(r"[.:](?=\s+[A-Z`\[]|\s*$)", said.partition(":")[2])
        assert 1 < len(sentences) <= 3, word


def test_versions_agree() -> None:
    newest = re.search(r"^## \[([\d.]+)\]", PAGES["CHANGELOG.md"], re.MULTILINE)
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert newest and cited and newest[1] == cited[1] == ht_kernels.__version__


def test_the_picture_is_small() -> None:
    """GitHub shows it to everyone who passes by."""
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", PAGES["README.md"])
    assert len(pictures) == 1 and 10_000 < (ROOT / pictures[0]).stat().st_size < 200_000


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_c_blocks_compile(tmp_path: Path) -> None:
    blocks = [block[2] for text in PAGES.values() for block in _BLOCK.finditer(text) if block[1] == "c"]
    assert blocks
    for number, block in enumerate(blocks):
        source = tmp_path / f"block{number}.c"
        source.write_text(block)
        flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", str(ROOT / "csrc/include")]
        done = subprocess.run(["cc", *flags, str(source)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def named_files(text: str) -> list[str]:
    """What stands in backticks and looks like a file or folder of the repository."""
    rooms = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0].isalpha())
    found = re.findall(rf"`((?:{rooms})/[\w./*-]*|test_\w+\.py)`", text)
    return [name for name in found if not name.startswith(("build/", "dist/", "site/"))]


def is_there(name: str) -> bool:
    """A path from the root, or the name of a test file in whatever room."""
    return (ROOT / name).exists() or ("/" not in name and any((ROOT / "tests").rglob(name)))


def _commands(text: str) -> Iterator[str]:
    """Lines of blocks without a language, and what stands in backticks."""
    for block in _BLOCK.finditer(text):
        if not block[1]:
            yield from block[2].splitlines()
    yield from re.findall(r"`([^`\n]+)`", _BLOCK.sub("", text))


def _problem(line: str) -> str | None:
    """What of a line of commands does not exist; None where all does, or it is no command."""
    for part in line.partition("  #")[0].split(" && "):
        try:
            words = shlex.split(part)
        except ValueError:  # not a command: an apostrophe
            continue
        while words and re.fullmatch(r"[A-Z_0-9]+=\S*", words[0]):
            words = words[1:]
        if words[:1] == ["timeout"]:
            words = words[4:]
        if len(words) > 1 and (problem := _problem_of(words)):
            return problem
    return None


def _problem_of(words: list[str]) -> str | None:
    tool, first, *rest = words
    options = {word.partition("=")[0] for word in rest if word.startswith("--")}
    if tool == "ht-kernels" and first != "COMMAND":
        if first not in COMMANDS:
            return f"there is no command {first}"
        unknown = options - _options(first)
    elif words[:2] == ["python", "-m"]:
        if rest[0] == "pytest":
            return _problem_of(["pytest", *rest[1:]]) if rest[1:] else None
        spec = importlib.util.find_spec(rest[0]) if (ROOT / rest[0].partition(".")[0]).is_dir() else None
        if spec is None or spec.origin is None:
            return f"there is no module {rest[0]}"
        main = Path(spec.origin).with_name("__main__.py") if spec.submodule_search_locations else Path(spec.origin)
        source = main.read_text()
        for shared in re.findall(r"figures\.(options\w*)\(", source):
            source += inspect.getsource(getattr(figures, shared))
        unknown = {option for option in options if f'"{option}"' not in source}
    elif tool == "pytest":
        paths = [word.partition("::")[0] for word in words[1:] if word.startswith(("tests/", "benchmarks/"))]
        unknown = {path for path in paths if not list(ROOT.glob(path))}
    elif tool == "python" and first.endswith(".py"):
        if not (ROOT / first).is_file():
            return f"there is no file {first}"
        unknown = {option for option in options if f'"{option}"' not in (ROOT / first).read_text()}
    elif words[:2] == ["pip", "install"]:
        part = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
        extras = re.findall(r"^([\w-]+) = \[", part, re.MULTILINE)
        asked = re.findall(r"(?:\.|ht-kernels)\[([\w,-]+)\]", " ".join(words))
        unknown = {extra for group in asked for extra in group.split(",")} - set(extras)
    else:
        unknown = set()
    return f"there is no {', '.join(sorted(unknown))}" if unknown else None


def _options(command: str) -> set[str]:
    parser = build([command])[1][command]
    return {option for action in parser._actions for option in action.option_strings}
