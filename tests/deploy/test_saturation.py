"""Which CPUs' sums of int8 products saturate, and that a user is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from ht_kernels.deploy import saturation


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "flags\t\t: fpu sse avx2 fma", True),
        ("x86_64", "flags : avx2 avx512f avx512_vnni", False),
        ("AMD64", "flags : avx2 avx_vnni", False),
        ("aarch64", "Features : asimd asimddp", False),
        ("x86_64", "nothing of the kind", False),
    ],
)
def test_saturates(machine: str, flags: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saturation.platform, "machine", lambda: machine)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\n{flags}\n")
    assert saturation.saturates(cpuinfo) is expected
    assert saturation.saturates(tmp_path / "missing") is False
