"""ht_kernels/_C.pyi says what the compiled module has."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import ht_kernels
from ht_kernels.backends import core

STUB = ast.parse((Path(ht_kernels.__file__).parent / "_C.pyi").read_text())
CUDA = {"CudaAdapter", "grid_to_mask_cuda", "spectral_filter_cuda"}
"""In a build with CUDA kernels only."""


def parameters(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in function.args.args]


def declared() -> dict[str, list[str] | None]:
    """Functions and methods by name, with the names of their parameters; None for a property."""
    found: dict[str, list[str] | None] = {}
    for node in STUB.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = parameters(node)
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                assert isinstance(method, ast.FunctionDef)
                found[f"{node.name}.{method.name}"] = None if method.decorator_list else parameters(method)
    return found


def compiled() -> dict[str, list[str] | None]:
    """The same of the module, from the signatures that pybind11 writes into docstrings."""

    def signature(doc: str | None) -> list[str]:
        inside = re.match(r"\w+\((.*)\) ->", doc or "")
        assert inside, doc
        return re.findall(r"(?:^|, )(\w+):", inside[1])

    found: dict[str, list[str] | None] = {}
    for name, value in vars(core.module).items():
        if name.startswith("_"):
            continue
        if not inspect.isclass(value):
            found[name] = signature(value.__doc__)
            continue
        for method, what in vars(value).items():
            if method == "__init__" or not method.startswith("_"):
                found[f"{name}.{method}"] = None if isinstance(what, property) else signature(what.__doc__)
    return found


@pytest.mark.skipif(bool(core.missing), reason="there is no compiled core")
def test_the_stub_is_true() -> None:
    stub, module = declared(), compiled()
    if "cuda_archs" in core.module.build_info() and not core.module.build_info()["cuda_archs"]:
        stub = {name: found for name, found in stub.items() if name.partition(".")[0] not in CUDA}
    assert module == stub
