"""The programs in examples/ run, each on a small input, and do what they say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from helpers import not_installed
from test_docs import ROOT

EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.usefixtures("one_thread")


def run(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a program prints."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_drop_in(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = run("drop_in.py", "--rounds", "1", monkeypatch=monkeypatch, capsys=capsys)
    assert "12 adapters swapped, 0 left as they were" in said
    assert float(said.split("logits differ by ")[1].split()[0]) < 1e-5


def test_train_and_deploy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = "--phantoms", "2", "--epochs", "1", "--batch", "2", "--output", str(tmp_path / "out")
    said = run("train_and_deploy.py", *small, monkeypatch=monkeypatch, capsys=capsys)
    assert "onnxruntime finds" in said and "pixels of lesion in phantom 0" in said
    assert {"best.safetensors", "model.onnx", "model.json", "test"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }


@pytest.mark.parametrize("writes", [False, True])
def test_live(
    writes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ("--output", str(tmp_path / "out")) if writes else ()
    said = run("live.py", "--seconds", "1.5", *output, monkeypatch=monkeypatch, capsys=capsys)
    assert "frame    0  " in said and "masks a second" in said
    assert (tmp_path / "out" / "overlay.mp4").exists() == writes


def test_live_without_a_clip() -> None:
    program = f"import runpy; runpy.run_path({str(EXAMPLES / 'live.py')!r}, run_name='__main__')"
    done = not_installed.run(program, hidden=["pydicom"])
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: the example clip comes with pydicom, which is not installed: pip install pydicom" in done.stderr


def test_periodic_interference(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = "--count", "8", "--steps", "40"
    said = run("periodic_interference.py", *small, monkeypatch=monkeypatch, capsys=capsys)
    decibels = {line[:16].strip(): float(line[16:].split()[0]) for line in said.splitlines() if " dB" in line}
    assert decibels["spectral filter"] > decibels["gain"] + 1
    assert Path("periodic_interference.png").exists()


def test_every_example_is_tried() -> None:
    tried = Path(__file__).read_text()
    assert all(f'"{path.name}"' in tried for path in EXAMPLES.glob("*.py"))
