"""The command ``ht-kernels`` before it loads the package: how threads wait for each other, and what memory is kept."""

from __future__ import annotations

import ctypes
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
    monkeypatch.setattr(ht_kernels_command, "keep_memory", lambda: True)
    assert ht_kernels_command.main() == 5
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_the_command_loads_torch_after_that_and_a_program_keeps_its_environment() -> None:
    assert 'ht-kernels = "ht_kernels_command:main"' in (Path(__file__).parents[1] / "pyproject.toml").read_text()
    code = "import os, sys, ht_kernels_command; print('torch' in sys.modules, 'GOMP_SPINCOUNT' in os.environ); "
    code += "import ht_kernels, ht_kernels.cli; print('torch' in sys.modules, 'GOMP_SPINCOUNT' in os.environ); "
    code += "ht_kernels.HTAdapter; print('torch' in sys.modules, 'GOMP_SPINCOUNT' in os.environ)"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    said = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert said.stdout.split() == ["False", "False"] * 2 + ["True", "False"]


@pytest.mark.parametrize(
    ("users", "kept"),
    [({}, 1), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, 0), ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}, 0)],
)
def test_memory_is_kept_unless_the_user_says_otherwise(
    users: dict[str, str], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(os, "environ", dict(users))
    monkeypatch.setattr(cli, "main", lambda: 0)
    monkeypatch.setattr(ht_kernels_command, "keep_memory", lambda: calls.append(True))
    ht_kernels_command.main()
    assert len(calls) == kept


def test_memory_is_kept_where_glibc_has_a_largest_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[int, int] = {}

    class Glibc:
        @staticmethod
        def mallopt(name: int, value: int) -> int:
            if name == ht_kernels_command._M_MMAP_THRESHOLD and value > 2**25:
                return 0
            said[name] = value
            return 1

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Glibc)
    assert ht_kernels_command.keep_memory()
    assert said == {ht_kernels_command._M_MMAP_THRESHOLD: 2**25, ht_kernels_command._M_TRIM_THRESHOLD: 2**31 - 1}


FAULTS = """
import ctypes, resource, sys, ht_kernels_command
if "keep" in sys.argv and not ht_kernels_command.keep_memory():
    print("other")
    raise SystemExit
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.argtypes, malloc.restype, free.argtypes = [ctypes.c_size_t], ctypes.c_void_p, [ctypes.c_void_p]
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [malloc(2**24) for _ in range(4)]
    for piece in pieces:
        ctypes.memset(piece, 1, 2**24)
    for piece in pieces:
        free(piece)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults of Linux")
def test_kept_memory_costs_no_page_faults_again() -> None:
    """64 MiB in pieces of 16, again and again, which without the setting are 16,384 pages each time."""
    environment = {name: value for name, value in os.environ.items() if name not in ht_kernels_command._SETTINGS}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", FAULTS]
    kept = subprocess.run([*command, "keep"], env=environment, check=True, capture_output=True, text=True).stdout
    if kept.strip() == "other":
        pytest.skip("the C library is not glibc")
    given_back = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert int(kept) < 100 < 10_000 < int(given_back)
