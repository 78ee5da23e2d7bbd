"""What goes from another library's error into a message, and what becomes of outputs that cannot be written."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.clips import TINY
from ht_kernels.bench import runner
from ht_kernels.cli import main
from ht_kernels.cli.terminal import enough_memory
from ht_kernels.errors import InputError, out_of_memory, reason
from ht_kernels.files import output_folder


def test_a_cause_is_kept_in_full() -> None:
    """Libraries for downloads say what went wrong at the end of a long line."""
    long = f"HTTPSConnectionPool{'(' * 300}: no route to host"
    assert reason(OSError(f"\n {long}\nhow to report this")) == f"{long} how to report this"
    assert reason(RuntimeError("Error in graph:\n  node 7:\tno kernel\n")) == "Error in graph: node 7: no kernel"
    assert reason(KeyError()) == "KeyError" and reason(TimeoutError()) == "TimeoutError"


def test_the_cause_of_a_failed_download_reaches_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    import ht_kernels as ht

    def offline(*args: object, **options: object) -> None:
        raise OSError(f"Max retries exceeded with url: {'x' * 300} (Caused by: no route to host)")

    monkeypatch.setattr("open_clip.download_pretrained", offline)
    with pytest.raises(InputError, match="Caused by: no route to host"):
        ht.HTCLIP("ViT-B-16", pretrained="openai")


def test_too_little_memory_is_a_sentence() -> None:
    message = r"not enough memory for a batch of 9 images \(.*1125899906842624 bytes.*\): give a smaller --batch"
    with pytest.raises(InputError, match=message), enough_memory("a batch of 9 images", "give a smaller --batch"):
        torch.empty(1 << 50, dtype=torch.uint8)
    for make in (lambda: np.empty(1 << 50, np.uint8), lambda: torch.empty(1 << 62), lambda: bytearray(1 << 60)):
        with pytest.raises(InputError, match="not enough memory"), enough_memory("it", "do less"):
            make()
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert out_of_memory(RuntimeError("Failed to allocate memory for requested buffer of size 9"))
    with pytest.raises(RuntimeError, match="mat1"), enough_memory("it", "do less"):
        torch.zeros(2, 3) @ torch.zeros(2, 3)


def _too_much(*_: object, **__: object) -> None:
    torch.empty(1 << 50, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("command", "fails", "words"),
    [
        (
            ["train", "--task", "segmentation", "--phantoms", "1", "--batch", "7", "--method", "all", *TINY],
            "ht_kernels.train.Trainer.run",
            ["a batch of 7 images", "smaller --batch", "--accumulate"],
        ),
        (
            ["evaluate", "phantom", "--phantoms", "1"],
            "ht_kernels.train.evaluate.predict_with_signals",
            ["a batch of 32 images of 224x224", "smaller --image-size"],
        ),
        (
            ["export", "phantom", "--batch", "64"],
            "ht_kernels.deploy.gate.check_onnx",
            ["a batch of 64 frames", "smaller --batch"],
        ),
        (
            ["bench", "--shape", "1000000000,197,768,64", "--grid", "14,14"],
            None,
            ["--shape 1000000000,197,768,64", "name fewer images"],
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_commands_say_what_needs_too_much_memory(
    command: list[str],
    fails: str | None,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ht_kernels.cli.train._VALIDATION_PHANTOMS", 1)
    if fails is not None:
        monkeypatch.setattr(fails, _too_much)
    output = tmp_path / ("model.onnx" if command[0] == "export" else "out")
    assert main([*command, "--output", str(output)]) == 2
    said = capsys.readouterr().err
    assert "there is not enough memory for" in said and "Traceback" not in said
    assert all(word in said for word in words), said
    assert not output.exists() or command[0] == "train"


@pytest.mark.parametrize(
    "command",
    [
        ["phantom", "--size", "32"],
        ["bench", "--quick", "--only", "heads"],
        ["train", "--phantoms", "1", "--task", "segmentation", "--backbone", "timm/vit_tiny_patch16_224"],
    ],
    ids=lambda command: command[0],
)
def test_an_output_that_cannot_be_made(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    if command[0] == "bench":
        monkeypatch.setattr(runner, "run", lambda *args, **options: ([], runner.Limits(1.0, 1.0)))
        monkeypatch.setattr("ht_kernels.bench.chart.draw", lambda results, facts: b"")
    if command[0] == "train":
        monkeypatch.setattr("ht_kernels.cli.train._VALIDATION_PHANTOMS", 1)
    assert main([*command, "--output", str(tmp_path / "file/out")]) == 2
    assert "Not a directory" in capsys.readouterr().err


def test_a_full_disk_within_an_output_folder(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        message = r"the output .*out cannot be written: File too large"
        with pytest.raises(InputError, match=message), output_folder(tmp_path / "out") as folder:
            (folder / "a").write_bytes(bytes(200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
