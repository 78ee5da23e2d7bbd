"""Importing the package is light, and never fails for want of a compiled part; commands import no other command."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ht_kernels.cli
from ht_kernels import choices, published
from ht_kernels.bench import sizes
from ht_kernels.data import layout, phantom
from ht_kernels.errors import InputError

LAZY = ("data", "deploy", "train", "video")

LOG = """
import os
os.environ["HT_KERNELS_LOG"] = "{level}"
import torch, ht_kernels as ht
ht.HTAdapter(16, 8).double()(torch.zeros(1, 5, 16).double(), (2, 2))
"""
PROGRAMS = {
    "light": """
import sys, ht_kernels
print([name for name in ("open_clip", "timm", "av", "pydicom", "matplotlib", "PIL") if name in sys.modules])
import ht_kernels.deploy
print([name for name in ("onnx", "onnxruntime", "openvino") if name in sys.modules])
import ht_kernels.train
print([name for name in ("monai", "tensorboard") if name in sys.modules])
""",
    "lazy": """
import pickle, sys
def loaded(name):
    return name in [each for each in sys.modules if each.startswith("ht_kernels")]
import ht_kernels as ht
print(sorted(set(ht.__all__) - set(dir(ht))), loaded("ht_kernels.functional"), hasattr(ht, "nothing"))
adapter = ht.HTAdapter(16, 8)
print(loaded("ht_kernels.video"), ht.functional.__name__, ht.deploy.fold is ht.fold, ht.data.phantom.__name__)
import torch
print(torch.ops.ht_kernels.adapter.default.name())
with open("adapter.pickle", "wb") as file:
    pickle.dump(adapter, file)
""",
    "pickle": """
import pickle
with open("adapter.pickle", "rb") as file:
    adapter = pickle.load(file)
import torch
print(adapter(torch.zeros(1, 5, 16), (2, 2)).shape)
""",
    "without the core": """
import sys
sys.modules["ht_kernels._C"] = None
import torch, ht_kernels as ht
print(ht.available_backends())
print(ht.HTAdapter(16, 8)(torch.zeros(1, 5, 16), (2, 2)).shape)
try:
    ht.set_backend("cpu")
    ht.HTAdapter(16, 8)(torch.zeros(1, 5, 16), (2, 2))
except RuntimeError as error:
    print(error)
""",
    **{f"log {level}": LOG.format(level=level) for level in ("debug", "loud", "")},
}
FORK = """
import os, sys, torch
for path in sys.argv[1:]:
    if os.fork() == 0:
        said = os.open(path + ".said", os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1), os.dup2(said, 2)
        exec(open(path).read())
        sys.exit()
    assert os.wait()[1] == 0, path
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each program prints. It runs in a process that has imported torch, and nothing of ours."""
    folder = tmp_path_factory.mktemp("programs")
    for name, program in PROGRAMS.items():
        (folder / name).write_text(program)
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "TRITON_INTERPRET": "0", "HT_KERNELS_BACKEND": ""}
    subprocess.run(
        [sys.executable, "-c", FORK, *(folder / name for name in PROGRAMS)],
        env={**os.environ, **environment},
        cwd=folder,  # not the checkout, whose own ht_kernels would hide the installed one
        check=True,
    )
    return {name: (folder / f"{name}.said").read_text() for name in PROGRAMS}


def test_import_is_light(said: dict[str, str]) -> None:
    assert said["light"].split() == ["[]"] * 3


def test_parts_are_imported_at_first_use(said: dict[str, str]) -> None:
    first, second, operator = said["lazy"].splitlines()
    assert first == "[] False False"
    assert second == "False ht_kernels.functional True ht_kernels.data.phantom"
    assert operator == "ht_kernels::adapter"


def test_a_pickle_brings_its_modules(said: dict[str, str]) -> None:
    """In a process that has imported nothing of ours."""
    assert said["pickle"] == "torch.Size([1, 5, 16])\n"


@pytest.mark.parametrize("package", ["ht_kernels", *(f"ht_kernels.{name}" for name in LAZY)])
def test_every_public_name_has_its_place(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))
    assert [name for name in module.__all__ if getattr(module, name, None) is None] == []
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_choices_are_those_of_the_parts() -> None:
    assert tuple(published.VARIANTS) == choices.VARIANTS
    assert tuple(phantom.KINDS) == choices.LESIONS and layout.CLASSES["PHANTOM"] == phantom.LABELS
    for name, variant in published.VARIANTS.items():
        assert (name in sizes.WITH_FREQUENCY, name in sizes.WITH_NOISE) == (variant.frequency, variant.noise)
    with pytest.raises(InputError, match="size is"):
        phantom.Phantom(size=(choices.PHANTOM_SIDES[0] - 1, 99))
    phantom.Phantom(size=(choices.PHANTOM_SIDES[0], 99))


def test_without_the_compiled_core(said: dict[str, str]) -> None:
    available, shape, error = said["without the core"].strip().splitlines()
    assert available == "['reference']" and shape == "torch.Size([1, 5, 16])"
    assert "'cpu' was asked for by name" in error and "could not be imported" in error


def test_the_log_says_what_was_chosen_and_why_not_others(said: dict[str, str]) -> None:
    assert "ht_kernels: cpu: not used: " in said["log debug"]
    assert "ht_kernels: reference: chosen for" in said["log debug"]
    assert "expected debug, info" in said["log loud"]
    assert said["log "] == ""


def test_no_command_imports_another() -> None:
    """What two commands need lies in the library, or in a module of ``cli`` that is no command."""
    folder = Path(ht_kernels.cli.__file__).parent
    for command in ht_kernels.cli.COMMANDS:
        for node in ast.walk(ast.parse((folder / f"{command}.py").read_text())):
            if isinstance(node, ast.ImportFrom):
                named = {*(node.module or "").split("."), *(alias.name for alias in node.names)}
                from_cli = node.level == 1 or (node.module or "").startswith("ht_kernels.cli")
                assert not from_cli or named.isdisjoint(ht_kernels.cli.COMMANDS), f"{command}.py imports {named}"


def test_only_the_command_line_imports_itself() -> None:
    """What a benchmark or the library needs of a command lies in the library."""
    root = Path(ht_kernels.cli.__file__).parents[2]
    package = [path for path in (root / "ht_kernels").rglob("*.py") if path.parent.name != "cli"]
    found = [
        str(path.relative_to(root))
        for path in (*package, *(root / "benchmarks").rglob("*.py"))
        if re.search(r"^\s*(?:from|import) ht_kernels\.cli\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert found == ["ht_kernels/__main__.py"]
