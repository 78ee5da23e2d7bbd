"""Hypothesis at the entrance: whatever a file holds gives frames or a sentence, in bounded memory and time."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file

from helpers.clips import folded, frames, region, write_dicom, write_video
from helpers.fuzz import budget
from ht_kernels.deploy import Session, export_onnx
from ht_kernels.errors import BackendError, InputError
from ht_kernels.media.frames import check_frame
from ht_kernels.video import Source, open_source

pytestmark = [pytest.mark.timeout(7200), pytest.mark.filterwarnings("ignore")]
EXAMPLES = budget(60)


def enter(path: Path, most: int = 50) -> None:
    """Read a few frames; only InputError may come out, and it names the file in one line."""
    try:
        source = open_source(path)
        assert isinstance(source, Source) and (source.fps is None or 0.01 <= source.fps <= 20_000)
        for index, (seconds, frame) in enumerate(source.timed()):
            check_frame(frame, index)
            assert np.isfinite(seconds)
            if index == most:
                break
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)


NUMBERS = st.sampled_from([0, 1, 2, 3, 7, 8, 12, 16, 17, 32, 255, 65535])
DECIMALS = st.sampled_from(["", "0", "-1", "1e-30", "1e300", "1e999", "nan", "inf", "40", "x"])
SEVERAL = st.one_of(DECIMALS, st.lists(DECIMALS, min_size=5, max_size=5), st.lists(DECIMALS, max_size=2))
HOSTILE = {
    **dict.fromkeys(("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel"), NUMBERS),
    **dict.fromkeys(("PixelRepresentation", "PlanarConfiguration", "RecommendedDisplayFrameRate"), NUMBERS),
    **dict.fromkeys(("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"), SEVERAL),
    **dict.fromkeys(("FrameTime", "FrameTimeVector", "CineRate"), SEVERAL),
    "NumberOfFrames": st.sampled_from(["", "0", "-3", "1", "4", "6", "2147483647", "x", "1.5"]),
    "PhotometricInterpretation": st.sampled_from(
        ["", "X", "RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR", "MONOCHROME1", "MONOCHROME2"]
    ),
    "PixelData": st.sampled_from([b"", b"\0", bytes(99), bytes(48 * 64 * 5 + 2)]),
    "SequenceOfUltrasoundRegions": st.lists(st.builds(region, *[st.integers(0, 2**32 - 1)] * 4), max_size=2),
    "Modality": st.sampled_from(["US", "", "IVUS"]),
}


@EXAMPLES
@given(changes=st.dictionaries(st.sampled_from(sorted(HOSTILE)), st.none(), max_size=4), data=st.data())
def test_dicom_attributes(tmp_path_factory: pytest.TempPathFactory, changes: dict[str, None], data: st.DataObject):
    path = tmp_path_factory.getbasetemp() / "attributes.dcm"
    values = {name: data.draw(HOSTILE[name], name) for name in changes}
    before = pydicom.config.settings.writing_validation_mode
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    try:
        write_dicom(path, np.stack(frames()), **values)
    except (ValueError, TypeError, OverflowError):
        return  # pydicom cannot write it
    finally:
        pydicom.config.settings.writing_validation_mode = before
    enter(path)


def of_images() -> dict[str, bytes]:
    """A file of each kind that is read."""
    gray = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32), dtype=np.uint8))
    files = {}
    for kind in ("png", "jpeg", "bmp", "tiff", "ppm", "webp", "gif"):
        content = io.BytesIO()
        more = {"save_all": True, "append_images": [gray, gray]} if kind in ("tiff", "gif") else {}
        gray.save(content, kind, **more)
        files[kind] = content.getvalue()
    return files


IMAGES = of_images()
VIDEO: list[bytes] = []
CLIP = Path(get_testdata_file("examples_ybr_color.dcm", download=False)).read_bytes()
DAMAGE = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8)


def damaged(content: bytes, damage: list[tuple[float, int]], keep: float) -> bytes:
    """``content`` with bytes changed at relative places, cut off at another."""
    changed = bytearray(content)
    for place, value in damage:
        changed[int(place * len(changed))] = value
    return bytes(changed[: max(1, int(keep * len(changed)))])


@EXAMPLES
@given(st.sampled_from(sorted(IMAGES)), DAMAGE, st.sampled_from([1.0, 1.0, 0.9, 0.3]))
def test_images(tmp_path_factory: pytest.TempPathFactory, kind: str, damage: list[tuple[float, int]], keep: float):
    path = tmp_path_factory.getbasetemp() / f"fuzz.{kind}"
    path.write_bytes(damaged(IMAGES[kind], damage, keep))
    enter(path)


@EXAMPLES
@given(DAMAGE, st.sampled_from([1.0, 1.0, 0.9, 0.3]))
def test_videos(tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[float, int]], keep: float) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.mp4"
    if not VIDEO:
        VIDEO.append(write_video(path).read_bytes())
    path.write_bytes(damaged(VIDEO[0], damage, keep))
    enter(path)


@budget(40)
@given(DAMAGE, st.sampled_from([0.01, 1.0]), st.sampled_from([1.0, 1.0, 0.5, 0.01]))
def test_a_compressed_clip(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[float, int]], spread: float, keep: float
):
    """Damage all over it, or in its first hundredth, where the attributes are."""
    path = tmp_path_factory.getbasetemp() / "fuzz.dcm"
    path.write_bytes(damaged(CLIP, [(place * spread, value) for place, value in damage], keep))
    enter(path, most=5)


HEADS = b"", b"\x89PNG\r\n\x1a\n", b"\0" * 128 + b"DICM", b"\x08\0\x05\0CS\x02\0", b"RIFF", b"\0\0\0 ftyp"


@EXAMPLES
@given(
    st.binary(max_size=600),
    st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n", b"\0" * 128 + b"DICM", b"\x08\0\x05\0CS\x02\0", b"RIFF", b"\0\0\0 ftyp"]
    ),
)
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes, head: bytes):
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.write_bytes(head + content)
    enter(path)


HOSTILE_JSON = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 1, 3, 2**40, 2**70, 1e400, "", "x", "mask", "../x", "uint8", "float16", "batch"]
    ),
    st.lists(st.sampled_from([None, True, -1, 0, 1, 2, 3, 64, 2**40, "batch", "x"]), max_size=4),
    st.dictionaries(st.sampled_from(["torch", "x"]), st.sampled_from([1, "x", None]), max_size=2),
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    return path, dataclasses.asdict(export_onnx(folded(), path, batch=(1, 2, 3)))


@EXAMPLES
@given(data=st.data())
def test_manifests(exported: tuple[Path, dict[str, object]], data: st.DataObject) -> None:
    """A manifest says anything; the file is refused, or runs as it says."""
    path, good = exported
    names = data.draw(st.sets(st.sampled_from(sorted(good)), min_size=1, max_size=2))
    changed = {**good, **{name: data.draw(HOSTILE_JSON, name) for name in sorted(names)}}
    path.with_name("model.json").write_text(json.dumps(changed))
    try:
        session = Session.open(path, runtime="onnxruntime")
    except (InputError, BackendError) as error:
        assert "\n" not in str(error)
        return
    frames = torch.zeros(session.batch[0], *session.frame_shape, dtype=torch.uint8)
    assert session(frames).shape[0] == session.batch[0]
