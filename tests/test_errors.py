"""What goes from another library's error into a message, and what becomes of outputs that cannot be written."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from ht_kernels.bench import runner
from ht_kernels.cli import main
from ht_kernels.errors import InputError, reason
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
