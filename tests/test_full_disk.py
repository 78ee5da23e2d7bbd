"""A disk that is full: words, exit status 2, and nothing half-written.

A limit on the size of a process's files stands for the full disk, because every write beyond it fails, also in C.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import timm
from safetensors.torch import save_file

import ht_kernels as ht
from helpers.clips import TINY, frames, write_dicom
from helpers.layout import disc, make_layout, picture, save
from helpers.small_towers import IMAGE, small_tower
from ht_kernels.cli import main
from ht_kernels.data import SegmentationDataset
from ht_kernels.errors import InputError
from ht_kernels.files import append_whole, output_folder
from ht_kernels.train import Recipe, Trainer, prepare, read_examples
from ht_kernels.video.sinks import VideoSink
from ht_kernels.weights import PHANTOM

pytestmark = pytest.mark.usefixtures("one_thread")

FULL = "cannot be written: File too large"


@contextmanager
def room(size: int) -> Iterator[None]:
    """Let no file become larger than ``size`` bytes."""
    before, caches = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # Python does not notice that it wrote only half of a module's bytecode
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = caches


def tree(folder: Path) -> list[str]:
    """All files and folders in a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def download(root: Path) -> Path:
    """Twelve images as TN3K has them."""
    for i in range(12):
        part = "trainval" if i < 9 else "test"
        save(root / f"{part}-image/{i:04}.jpg", picture(i))
        save(root / f"{part}-mask/{i:04}.jpg", disc(i) * np.uint8(255))
    return root


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    make_layout(root / "data")
    download(root / "tn3k")
    write_dicom(root / "clip.dcm", np.stack(frames()))
    name, weights = "vit_tiny_patch16_224", root / "tower.safetensors"
    save_file(timm.create_model(name, num_classes=0).state_dict(), weights)
    options = {"image_size": IMAGE, "bottleneck": 8, "reduce_dim": 16, "adapter_layers": 1}
    ht.HTCLIP(f"timm/{name}", str(weights), **options).save(root / "model.safetensors")
    return root


CLIP = ["--frames", "IN/clip.dcm"]
COMMANDS = {
    "phantom": ["phantom", "--size", "64"],
    "phantom --clip": ["phantom", "--size", "64", "--clip", "2"],
    "prepare": ["prepare", "IN/tn3k", "--dataset", "tn3k"],
    "evaluate": ["evaluate", str(PHANTOM), "IN/data", "--dataset", "BUSI"],
    "inspect": ["inspect", str(PHANTOM), *CLIP],
    "predict": ["predict", "IN/clip.dcm", "--weights", str(PHANTOM)],
    "predict an image": ["predict", "IN/data/all/images/BUSI_0.png", "--weights", str(PHANTOM)],
    "stream": ["stream", "IN/clip.dcm", *TINY],
    "export": ["export", str(PHANTOM), *CLIP],
    "convert": ["convert", "IN/model.safetensors"],
    "triton-server": ["export", str(PHANTOM), "--format", "triton-server", *CLIP],
}


@pytest.mark.parametrize(("command", "there"), [*((name, False) for name in COMMANDS), ("prepare", True)])
def test_commands(command: str, there: bool, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "sub" / ("m.onnx" if command == "export" else "m")
    output.parent.mkdir()
    if there:
        output.mkdir()
    before = tree(tmp_path)
    arguments = [argument.replace("IN", str(inputs)) for argument in COMMANDS[command]]
    with room(400):
        status = main([*arguments, "--output", str(output)])
    said = capsys.readouterr().err.splitlines()[-1]
    assert status == 2 and f"{output} {FULL}" in said
    assert tree(tmp_path) == before


@pytest.mark.parametrize("size", [0, 400, 20_000])
def test_training(size: int, inputs: Path, tmp_path: Path) -> None:
    """What was written is whole, and the training goes on when there is room again."""
    splits = (SegmentationDataset(inputs / "data", "BUSI", split, IMAGE) for split in ("train", "val"))
    train, val = map(read_examples, splits)

    def trainer(epochs: int) -> Trainer:
        model = ht.HTCLIP(small_tower("timm").float(), reduce_dim=16, feature_layers=(1, 2), bottleneck=8)
        prepare(model, "heads")
        recipe = Recipe(method="heads", epochs=epochs, validate_every=1)
        return Trainer(model, recipe, train, val, tmp_path, say=lambda _: None)

    trainer(1).run()
    before = (tmp_path / "last.pt").read_bytes()
    with room(size), pytest.raises(InputError, match=FULL):
        trainer(3).run()
    assert (tmp_path / "last.pt").read_bytes() == before
    written = {"best.safetensors", "last.pt", "log.csv", "curves.png", "tensorboard"}
    assert {path.name for path in tmp_path.iterdir()} <= written
    assert trainer(2).run().epochs == 2


def test_what_is_appended_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with room(100):
        with pytest.raises(InputError, match=f"the log .*log {FULL}"):
            append_whole(path, bytes(101), "the log")
        assert tree(tmp_path) == []
        append_whole(path, b"a" * 60, "the log")
        with pytest.raises(InputError, match=FULL):
            append_whole(path, b"b" * 60, "the log")
    assert path.read_bytes() == b"a" * 60


@pytest.mark.parametrize("size", [0, 20_000])
def test_a_video(size: int, tmp_path: Path) -> None:
    """FFmpeg would crash if it were asked to go on without a header."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 96, 3), dtype=np.uint8)
    sink = VideoSink(tmp_path / "a.mp4", 25.0)
    with room(size):
        with pytest.raises(OSError, match="File too large"):
            for frame in noise:
                sink.write(frame)
            sink.close()
        sink.close()


def test_the_standard_output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(["info"]) == 2
        assert "cannot be written: No space left on device" in capsys.readouterr().err
        with pytest.raises(OSError, match="No space"):
            full.close()


def test_a_folder_that_exists_keeps_what_is_in_it(tmp_path: Path) -> None:
    """The hidden folder lies in it, for it may be where another disk is mounted."""
    (tmp_path / "out/all").mkdir(parents=True)
    (tmp_path / "out/all/old").write_text("old")
    for replaced in ((), ("all/old",)):
        with output_folder(tmp_path / "out", replaced) as folder:
            assert folder.parent == tmp_path / "out"
            (folder / "all").mkdir()
            (folder / "all/new").write_text("new")
        assert tree(tmp_path) == ["out", "out/all", "out/all/new", *([] if replaced else ["out/all/old"])]
