"""The Dockerfiles are short, install what is known, and CI runs the steps of the one for CPUs."""

from __future__ import annotations

import re
import shlex

import pytest

from helpers import ROOT

FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
BESIDE_EXTRAS = {"cuda-python", "pip", "setuptools", "wheel"}
"""What only an environment without torch needs, and what builds wheels."""


def packages(text: str) -> set[str]:
    """The names that a Dockerfile has pip install from an index."""
    found: set[str] = set()
    for line in re.findall(r"^RUN .*?pip install (.*)$", text, re.MULTILINE):
        words = shlex.split(line.split("&&")[0])
        found |= {re.split(r"[<>=!~\[]", word)[0] for word in words if not word.startswith(("-", "/"))}
    return found


def named_in_extras() -> set[str]:
    table = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    return {name.replace("_", "-") for name in re.findall(r'"([A-Za-z0-9_-]+)', table)}


def test_there_are_three() -> None:
    assert [path.stem for path in FILES] == ["cpu", "cuda", "jetson"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dockerfile(path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 20
    wanted = packages(text)
    assert {"numpy", "av", "onnxruntime"} <= wanted and "torch" not in wanted
    assert wanted - named_in_extras() - BESIDE_EXTRAS == set()
    assert "pip install --no-deps /wheels" in text.replace("--no-cache-dir ", "")
    assert text.splitlines()[-1] == 'ENTRYPOINT ["ht-kernels"]'


def test_the_extra_is_what_the_image_installs() -> None:
    table = (ROOT / "pyproject.toml").read_text()
    edge = re.search(r"^edge = \[(.*?)\]", table, re.MULTILINE)
    assert edge is not None
    assert set(re.findall(r'"([\w-]+)"', edge[1])) == packages((ROOT / "docker/cpu.Dockerfile").read_text())


def test_ci_runs_the_steps_of_the_image_for_cpus() -> None:
    """It reads them from the file, so that they are the same."""
    assert "docker/cpu.Dockerfile" in (ROOT / ".ci/edge").read_text()
    assert ".ci/edge" in (ROOT / ".ci/run").read_text()
