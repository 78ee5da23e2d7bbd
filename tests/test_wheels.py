"""What is released: the wheels that cibuildwheel is asked for, what its workflow may not change, the conda recipe."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import ht_kernels
from helpers import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
WHEELS: dict[str, Any] = PROJECT["tool"]["cibuildwheel"]
WORKFLOW = (ROOT / ".github/workflows/wheels.yml").read_text()


def names(requirements: list[str]) -> dict[str, str]:
    """The bound of each package, by name. ``python >=3.10`` and ``python>=3.10`` are the same."""
    found = [re.fullmatch(r"([\w-]+) *([<>=.\d]*).*", text) for text in requirements]
    return {match[1].lower(): match[2] for match in found if match}


def test_a_wheel_for_each_python() -> None:
    """From the oldest that pyproject.toml allows on, without a gap, and free-threaded."""
    asked = [name.removesuffix("-*") for name in WHEELS["build"]]
    oldest = int(PROJECT["project"]["requires-python"].removeprefix(">=3."))
    plain = [name for name in asked if not name.endswith("t")]
    assert plain == [f"cp3{minor}" for minor in range(oldest, oldest + len(plain))]
    assert [name for name in asked if name not in plain] == [f"{plain[-1]}t"]


def test_settings_of_cibuildwheel(tmp_path: Path) -> None:
    """They are settings that it knows, where it is installed."""
    cibuildwheel = pytest.importorskip("cibuildwheel")
    jsonschema = pytest.importorskip("jsonschema")
    schema = Path(cibuildwheel.__file__).parent / "resources" / "cibuildwheel.schema.json"
    jsonschema.validate(WHEELS, json.loads(schema.read_text()))


def test_torchs_openmp_is_not_copied() -> None:
    assert "--exclude libgomp.so.1" in WHEELS["repair-wheel-command"]
    assert "CIBW_REPAIR" not in WORKFLOW


def test_each_wheel_is_tried() -> None:
    script = re.search(r"python \{project\}/(\S+)", WHEELS["test-command"])
    assert script is not None
    compile((ROOT / script[1]).read_text(), script[1], "exec")
    assert "ht-kernels info" in WHEELS["test-command"] and "CIBW_TEST" not in WORKFLOW


def test_workflow() -> None:
    jobs = yaml.safe_load(WORKFLOW)["jobs"]
    assert jobs["wheels"]["strategy"]["matrix"]["runner"] == ["ubuntu-24.04", "ubuntu-24.04-arm"]
    assert set(jobs["release"]["needs"]) == set(jobs) - {"release"}
    assert "HT_KERNELS_CUDA=1" in str(jobs["cuda"]) and "HT_KERNELS_CUDA=0" not in WORKFLOW


def test_the_conda_recipe_is_of_this_package() -> None:
    """Its version and requirements are those of pyproject.toml; conda's name of torch is pytorch."""
    recipe = yaml.safe_load((ROOT / "conda/recipe.yaml").read_text())
    assert set(recipe) == {"context", "package", "source", "build", "requirements", "tests", "about"}
    assert recipe["context"]["version"] == ht_kernels.__version__
    assert recipe["package"]["name"] == PROJECT["project"]["name"]
    assert recipe["about"]["license"] == PROJECT["project"]["license"]
    run = names(recipe["requirements"]["run"])
    wanted = names(PROJECT["project"]["dependencies"]) | {"python": PROJECT["project"]["requires-python"]}
    assert run == {"pytorch" if name == "torch" else name: bound for name, bound in wanted.items()}
    built_with = names(recipe["requirements"]["build"] + recipe["requirements"]["host"])
    assert names(PROJECT["build-system"]["requires"]).items() <= built_with.items()
