"""The command ``ht-kernels`` before it loads the package: how threads wait for each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ht_kernels_command
from ht_kernels import cli


@pytest.mark.parametrize(
    ("users", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_sleep_unless_the_user_says_otherwise(
    users: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(users))
    monkeypatch.setattr(cli, "main", lambda: 5)
    assert ht_kernels_command.main() == 5
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_the_command_loads_torch_after_that_and_a_program_keeps_its_environment() -> None:
    assert 'ht-kernels = "ht_kernels_command:main"' in (Path(__file__).parents[1] / "pyproject.toml").read_text()
    code = "import os, sys, ht_kernels_command; print('torch' in sys.modules, 'GOMP_SPINCOUNT' in os.environ); "
    code += "import ht_kernels, ht_kernels.cli; print('torch' in sys.modules, 'GOMP_SPINCOUNT' in os.environ)"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    said = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert said.stdout.split() == ["False", "False", "True", "False"]
