"""Numbers in sentences, numbers of other libraries, and what is said of arguments that are wrong."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import ht_kernels as ht
from helpers.clips import folded
from helpers.small_towers import small_tower
from ht_kernels.arguments import is_real, pair, whole
from ht_kernels.cli import main
from ht_kernels.data.phantom import Phantom
from ht_kernels.data.phantom import clip as phantom_clip
from ht_kernels.errors import InputError
from ht_kernels.weights import PHANTOM, locate
from ht_kernels.words import counted


def test_numbers_of_things() -> None:
    assert [counted(n, "frame") for n in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]
    assert [counted(2, noun) for noun in ("class", "batch", "training image")] == [
        "2 classes",
        "2 batches",
        "2 training images",
    ]


def test_numbers_of_any_library() -> None:
    for three in (3, np.int64(3), np.uint8(3), torch.tensor(3)):
        assert whole(three) == 3 and type(whole(three)) is int
        assert pair((three, 4)) == pair([three, 4]) == (3, 4)
    for wrong in (3.0, "3", None, True, np.bool_(True), [3]):
        assert whole(wrong) is None and pair((wrong, 4)) is None
    assert pair(3) is None and pair((1, 2, 3)) is None
    assert is_real(3) and is_real(np.float32(0.5)) and not (is_real("3") or is_real(None) or is_real(True))


@pytest.mark.parametrize("name", ["data", "deploy", "functional", "video"])
def test_completion_shows_the_public_names(name: str) -> None:
    """Those that are imported at first use, too, and none that a module only imports."""
    module = getattr(ht, name)
    assert set(module.__all__) <= set(dir(module)) and dir(module) == sorted(dir(module))
    assert not any(name in dir(module) for name in ("TYPE_CHECKING", "annotations", "lazily"))
    assert all(hasattr(module, public) for public in module.__all__)


def small(**options: object) -> ht.HTCLIP:
    return ht.HTCLIP(
        small_tower("timm").float(), **{"reduce_dim": 8, "feature_layers": (0, 1), "bottleneck": 8, **options}
    )


def test_a_model_made_with_numbers_of_numpy_is_saved(tmp_path: Path) -> None:
    model = small(
        num_classes=np.int64(3),
        bottleneck=np.int32(8),
        reduce_dim=np.int64(8),
        feature_layers=np.array([0, 1]),
        adapter_layers=np.int64(1),
    )
    model.save(tmp_path / "model.safetensors")
    assert model.config.num_classes == 3 and model.config.feature_layers == (0, 1) and model.config.adapter_layers == 1
    assert small(adapter_layers=np.array([1, 2])).config.adapter_layers == (1, 2)


TOKENS = torch.zeros(1, 5, 16)
WRONG = {
    "num_classes": (lambda: small(num_classes="3"), TypeError, "num_classes must be a whole number, got '3'"),
    "half a class": (lambda: small(num_classes=2.5), TypeError, "num_classes must be a whole number, got 2.5"),
    "one layer": (lambda: small(feature_layers=3), TypeError, "feature_layers must be numbers of blocks"),
    "size": (lambda: small().resize("224"), TypeError, "image_size must be a whole number, got '224'"),
    "dim": (lambda: ht.HTAdapter("16", 8), TypeError, "dim must be a whole number, got '16'"),
    "grid": (lambda: ht.HTAdapter(16, 8)(TOKENS, (2.0, 2.0)), TypeError, "must be whole numbers, got (2.0, 2.0)"),
    "grid, eval": (lambda: ht.HTAdapter(16, 8).eval()(TOKENS, ("a", 2)), TypeError, "must be whole numbers"),
    "prefix": (
        lambda: ht.HTAdapter(16, 8)(TOKENS, (2, 2), "1"),
        TypeError,
        "must be whole numbers, got (2, 2) and '1'",
    ),
    "folded": (lambda: ht.functional.ht_adapter(TOKENS, None, (2, 2)), TypeError, "folded must be a FoldedAdapter"),
    "accelerate": (lambda: ht.accelerate("x"), TypeError, "model must be a module of torch, got str"),
    "output size": (lambda: folded()(torch.zeros(1), "ab"), ValueError, "output_size must be (height, width)"),
    "no output": (lambda: folded()(torch.zeros(1), (0, 4)), ValueError, "two whole numbers from 1 on, got (0, 4)"),
    "no source": (lambda: next(ht.video.Stream(folded()).run(None)), TypeError, "got NoneType: ht_kernels.video.open"),
    "a tensor": (
        lambda: next(ht.video.Stream(folded()).run([TOKENS])),
        InputError,
        "frame 0 is a Tensor, expected a",
    ),
    "crop": (lambda: ht.video.Stream(folded(), crop=np.arange(4)), InputError, "expected auto, a Box"),
    "record": (lambda: ht.video.record("a.mp4", None, "out"), TypeError, "source must be what ht_kernels.video.open_s"),
    "phantom": (lambda: Phantom(size=4), InputError, "size is 4, expected a height and a width"),
    "frames": (lambda: phantom_clip(Phantom(), 0, "3"), InputError, "a clip of '3' frames was asked for"),
    "phantoms": (lambda: ht.data.PhantomDataset("x"), InputError, "a dataset of 'x' phantoms was asked for"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused_in_words(name: str) -> None:
    call, kind, words = WRONG[name]
    with pytest.raises(kind, match=re.escape(words)):
        call()


def test_names_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the name does not hide them; other folders, and names with an ending, are told from files."""
    monkeypatch.chdir(tmp_path)
    Path("phantom").mkdir()
    assert locate("phantom") == PHANTOM
    Path("run").mkdir()
    with pytest.raises(InputError, match="run is a folder, expected a checkpoint: name a file, such as the best"):
        locate("run")
    Path("run/best.safetensors").touch()
    with pytest.raises(InputError, match=r"run is a folder, expected a checkpoint: name run/best\.safetensors"):
        locate("run")
    with pytest.raises(InputError, match="name a file, or one of breast, phantom"):
        locate("brest")
    with pytest.raises(
        InputError, match=r"no checkpoint file breast\.safetensors: name one that exists, or breast, whose"
    ):
        ht.HTCLIP.from_checkpoint("breast.safetensors")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["phantom", "--size", "1000000"], "--size 1000000 was given, expected 8 to 4096 pixels"),
        (["evaluate", "phantom", "--phantoms", "1", "--seed", "-1"], "--seed -1 was given, expected 0 or more"),
        (["inspect", "phantom", "--output", "file"], "the output file is a file, expected a folder"),
        (
            ["evaluate", "phantom", "--phantoms", "1", "--output", "file"],
            "the output file is a file, expected a folder",
        ),
        (["bench", "--shape", "1,5,16,8", "--grid", "2,2", "--seconds", "inf"], "--seconds inf was given, expected"),
        (["bench", "--compare", ".", "."], ". is a folder: name the results.json in it"),
    ],
)
def test_wrong_options_are_refused_before_the_work(
    command: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    output = [] if "--output" in command else ["--output", "out"]
    assert main([*command, *output]) == 2
    assert words in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["file"]
