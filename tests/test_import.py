"""Importing the package is light, and never fails for want of a compiled part; commands import no other command."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import ht_kernels.cli


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        # Elsewhere than in the checkout, whose own ht_kernels would hide the installed one.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TRITON_INTERPRET": "0", **environment},
        cwd=tempfile.gettempdir(),
        check=True,
    )


def test_import_is_light() -> None:
    done = python("""
        import sys, ht_kernels
        print([name for name in ("open_clip", "timm", "av", "pydicom", "matplotlib", "PIL") if name in sys.modules])
        import ht_kernels.deploy
        print([name for name in ("onnx", "onnxruntime") if name in sys.modules])
        import ht_kernels.train
        print([name for name in ("monai", "tensorboard") if name in sys.modules])
    """)
    assert done.stdout.split() == ["[]"] * 3


def test_without_the_compiled_core() -> None:
    done = python("""
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
    """)
    available, shape, error = done.stdout.strip().splitlines()
    assert available == "['reference']" and shape == "torch.Size([1, 5, 16])"
    assert "'cpu' was asked for by name" in error and "could not be imported" in error


def test_the_log_says_what_was_chosen_and_why_not_others() -> None:
    code = """
        import os, sys, torch
        for level in ("debug", "loud", ""):
            if os.fork() == 0:  # each has the package to itself, and torch from here
                os.environ["HT_KERNELS_LOG"] = level
                import ht_kernels as ht
                ht.HTAdapter(16, 8).double()(torch.zeros(1, 5, 16).double(), (2, 2))
                sys.exit()
            assert os.wait()[1] == 0
            print("next", file=sys.stderr, flush=True)
    """
    debug, loud, silent, rest = python(code, HT_KERNELS_BACKEND="").stderr.split("next\n")
    assert "ht_kernels: cpu: not used: " in debug and "ht_kernels: reference: chosen for" in debug
    assert "expected debug, info" in loud
    assert silent == rest == ""


def test_no_command_imports_another() -> None:
    """What two commands need lies in the library, or in a module of ``cli`` that is no command."""
    folder = Path(ht_kernels.cli.__file__).parent
    for command in ht_kernels.cli.COMMANDS:
        for node in ast.walk(ast.parse((folder / f"{command}.py").read_text())):
            if isinstance(node, ast.ImportFrom):
                named = {*(node.module or "").split("."), *(alias.name for alias in node.names)}
                from_cli = node.level == 1 or (node.module or "").startswith("ht_kernels.cli")
                assert not from_cli or named.isdisjoint(ht_kernels.cli.COMMANDS), f"{command}.py imports {named}"
