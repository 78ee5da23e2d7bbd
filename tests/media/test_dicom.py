"""Which DICOM files are read, how many frames they have, and when these are shown."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import MPEG2MPML, DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit

from helpers.clips import frames, write_dicom
from helpers.dicom import compressed, jpeg
from ht_kernels.errors import InputError
from ht_kernels.media import dicom_file
from ht_kernels.media.opening import open_file

pytestmark = pytest.mark.filterwarnings("ignore")
CLIP = np.stack(frames(3))


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(open_file(path))
    assert str(path) in str(caught.value) and not str(caught.value).rstrip().endswith(":")
    return str(caught.value)


def body(path: Path) -> bytes:
    """A file without preamble and file meta information."""
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


def test_without_preamble_or_meta(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", CLIP)
    content = path.read_bytes()
    read = pydicom.dcmread(path)
    for kept in (content[128 + 4 :], body(path)):
        path.write_bytes(kept)
        assert np.array_equal(np.stack(list(open_file(path))), CLIP)
    list(read.iterall())  # decoded, so that they can be written in another encoding
    del read.file_meta
    options = {"enforce_file_format": False, "force_encoding": True}
    pydicom.dcmwrite(tmp_path / "bare", read, implicit_vr=True, little_endian=True, **options)
    assert np.array_equal(np.stack(list(open_file(tmp_path / "bare"))), CLIP)
    read["PixelData"].VR = "OB"
    pydicom.dcmwrite(tmp_path / "big", read, implicit_vr=False, little_endian=False, **options)
    assert np.array_equal(np.stack(list(open_file(tmp_path / "big"))), CLIP)


def test_what_is_no_dicom() -> None:
    assert not dicom_file.is_dicom(b"")
    for content in (
        b"\x08\0\x05\0",
        b"plain text " * 40,
        bytes(400),
        b"\x89PNG\r\n\x1a\n" + bytes(400),
        b"\x08\0" * 99,
    ):
        assert not dicom_file.is_dicom(content)
    noise = np.random.default_rng(0).integers(0, 256, (2000, 400), dtype=np.uint8)
    noise[:, :4] = 8, 0, 5, 0
    assert not any(dicom_file.is_dicom(row.tobytes()) for row in noise)


def test_pydicom_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(dicom_file, "installed", asked.append)
    dicom_file._knows_elements.cache_clear()
    try:
        assert not any(dicom_file.is_dicom(bytes(400)) for _ in range(3))
    finally:
        dicom_file._knows_elements.cache_clear()
    assert asked == ["pydicom"]


@pytest.mark.parametrize("kind", ["3", "3.1", "6", "6.1", "6.2"])
def test_the_class_says_ultrasound_where_modality_does_not(tmp_path: Path, kind: str) -> None:
    for modality in (None, "OT"):
        path = write_dicom(tmp_path / "a.dcm", CLIP, Modality=modality, SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{kind}")
        assert len(list(open_file(path))) == 3
    path = write_dicom(tmp_path / "a.dcm", CLIP, Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    assert "is a DICOM file of MR (MR Image Storage), expected ultrasound" in refused(path)


def without(path: Path, *names: str) -> Path:
    dataset = pydicom.dcmread(path)
    for name in names:
        del dataset[name]
    dataset.save_as(path)
    return path


def test_frames_are_counted_in_the_data(tmp_path: Path) -> None:
    path = without(write_dicom(tmp_path / "a.dcm", CLIP), "NumberOfFrames")
    source = open_file(path)
    assert source.frame_count == len(list(source)) == len(list(source)) == 3
    assert len(source.warnings) == 1 and "does not say how many frames it has: 3 were counted" in source.warnings[0]
    assert open_file(write_dicom(path, CLIP, NumberOfFrames=0)).frame_count == 3
    fewer = open_file(write_dicom(path, CLIP, NumberOfFrames=2))
    assert fewer.frame_count == 3 and "has 3 frames, and not 2" in fewer.warnings[0]
    assert open_file(write_dicom(path, CLIP)).warnings == []
    assert open_file(without(write_dicom(path, CLIP[:1]), "NumberOfFrames")).warnings == []


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", CLIP)
    content = path.read_bytes()
    path.write_bytes(content[:-4000])
    source = open_file(path)
    assert len(list(source)) == 1 and "ends after 1 of 3 frames" in source.warnings[0]
    path.write_bytes(content[:-7000])
    assert "ends inside its first frame" in refused(path)
    compressed(path, JPEGBaseline8Bit, [jpeg(frame) for frame in CLIP], CLIP)
    path.write_bytes(path.read_bytes()[:-60])
    source = open_file(path)
    assert len(list(source)) == 2 and "ends after 2 of 3 frames" in source.warnings[0]


def test_fragments(tmp_path: Path) -> None:
    streams = [jpeg(frame) for frame in CLIP]
    path = compressed(tmp_path / "a.dcm", JPEGBaseline8Bit, streams, CLIP)
    whole = np.stack(list(open_file(path)))
    assert np.abs(whole.astype(int) - CLIP).max() < 9
    dataset = pydicom.dcmread(path)
    for table in (False, True):
        dataset.PixelData = encapsulate(streams, fragments_per_frame=3, has_bot=table)
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)
        assert np.array_equal(np.stack(list(open_file(path))), whole)
    source = open_file(without(path, "NumberOfFrames"))
    assert source.frame_count == 3 and len(source.warnings) == 1
    compressed(path, JPEGBaseline8Bit, streams, CLIP, NumberOfFrames=2)
    assert open_file(path).frame_count == 3


def test_a_damaged_frame_is_named_with_the_whole_reason(tmp_path: Path) -> None:
    streams = [jpeg(frame) for frame in CLIP]
    streams[1] = streams[1][:-200]
    assert "frame 2 of 3 cannot be decoded: " in refused(
        compressed(tmp_path / "a.dcm", JPEGBaseline8Bit, streams, CLIP)
    )
    assert "truncated" in refused(tmp_path / "a.dcm")


def test_transfer_syntaxes_that_nothing_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compressed(tmp_path / "a.dcm", MPEG2MPML, [bytes(8)], CLIP)
    assert "compressed as MPEG2 Main Profile / Main Level" in refused(path)
    assert "1.2.3.4" in refused(compressed(tmp_path / "a.dcm", "1.2.3.4", [bytes(8)], CLIP))
    path = compressed(tmp_path / "a.dcm", "1.2.840.10008.1.2.4.70", [bytes(8)], CLIP)
    assert "pip install pylibjpeg" in refused(path)


def deflated(path: Path, content: bytes) -> Path:
    """A file whose data set is ``content``, deflated."""
    dataset = pydicom.dcmread(write_dicom(path, CLIP))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    head = path.read_bytes()
    stream = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    path.write_bytes(head[: 144 + int.from_bytes(head[140:144], "little")] + stream.compress(content) + stream.flush())
    return path


def test_deflated(tmp_path: Path) -> None:
    content = body(write_dicom(tmp_path / "a.dcm", CLIP))
    assert np.array_equal(np.stack(list(open_file(deflated(tmp_path / "b.dcm", content)))), CLIP)
    bomb = deflated(tmp_path / "b.dcm", content + bytes(40 << 20))
    assert bomb.stat().st_size < 1 << 20 and "inflates to more than" in refused(bomb)
    big = body(write_dicom(tmp_path / "a.dcm", np.zeros((20, 1000, 1000), np.uint8)))
    assert open_file(deflated(tmp_path / "b.dcm", big)).frame_count == 20


@pytest.mark.parametrize(
    ("attributes", "fps"),
    [
        ({"CineRate": "30", "FrameTime": "40"}, 25),
        ({"CineRate": "30", "RecommendedDisplayFrameRate": "12"}, 30),
        ({"RecommendedDisplayFrameRate": "12"}, 12),
        ({"FrameTimeVector": ["0", "50", "50"], "FrameTime": "40"}, 20),
        ({"FrameTimeVector": ["0", "50", "50"], "FrameTime": "40", "FrameIncrementPointer": 0x00181063}, 25),
        ({"FrameTimeVector": ["0", "50", "50"], "FrameTime": "40", "FrameIncrementPointer": 0x00181065}, 20),
        ({"FrameTimeVector": "40"}, 25),
        ({"FrameTimeVector": "0", "CineRate": "30"}, 30),
        ({"FrameTime": "0", "CineRate": "1000000", "RecommendedDisplayFrameRate": "12"}, 12),
        ({}, None),
    ],
)
def test_rates(tmp_path: Path, attributes: dict[str, Any], fps: float | None) -> None:
    assert open_file(write_dicom(tmp_path / "a.dcm", CLIP, **attributes)).fps == fps


def test_times_without_that_of_the_first_frame(tmp_path: Path) -> None:
    source = open_file(write_dicom(tmp_path / "a.dcm", CLIP, FrameTimeVector=["20", "60"]))
    assert [seconds for seconds, _ in source.timed()] == pytest.approx([0, 0.02, 0.08])


RLE = "1.2.840.10008.1.2.5"


def rle(frames: np.ndarray) -> list[bytes]:
    """Frames of 8 bits as pydicom compresses them."""
    return [get_encoder(RLE).encode(frame, **OPTIONS) for frame in frames]


OPTIONS = {
    **{"rows": 48, "columns": 64, "samples_per_pixel": 1, "number_of_frames": 1, "bits_allocated": 8},
    **{"bits_stored": 8, "pixel_representation": 0, "photometric_interpretation": "MONOCHROME2"},
}


@pytest.mark.parametrize("declared", [1, 2, 3])
def test_frames_in_rle_are_counted(tmp_path: Path, declared: int) -> None:
    source = open_file(compressed(tmp_path / "a.dcm", RLE, rle(CLIP), CLIP, NumberOfFrames=declared))
    assert np.array_equal(list(source), CLIP) and len(source.warnings) == (declared != 3)


def test_rle_in_several_fragments(tmp_path: Path) -> None:
    parts = [part for frame in rle(CLIP) for part in (frame[:200], frame[200:])]
    assert np.array_equal(list(open_file(compressed(tmp_path / "a.dcm", RLE, parts, CLIP, NumberOfFrames=3))), CLIP)


@pytest.mark.parametrize(("declared", "warned"), [(None, True), (1, True), (3, False)])
def test_frames_of_half_the_chroma_are_counted(tmp_path: Path, declared: int | None, warned: bool) -> None:
    half = np.arange(3 * 20 * 30 * 2, dtype=np.uint8)
    path = write_dicom(
        tmp_path / "a.dcm",
        np.zeros((3, 20, 30, 3), np.uint8),
        PhotometricInterpretation="YBR_FULL_422",
        PixelData=half.tobytes(),
    )
    expected = list(open_file(path))
    dataset = pydicom.dcmread(path)
    if declared is None:
        del dataset.NumberOfFrames
    else:
        dataset.NumberOfFrames = declared
    dataset.save_as(path)
    source = open_file(path)
    assert len(expected) == 3 and np.array_equal(list(source), expected) and bool(source.warnings) == warned


def test_increments_that_go_back_are_none(tmp_path: Path) -> None:
    assert open_file(write_dicom(tmp_path / "a.dcm", CLIP, FrameTimeVector=["0", "-1", "2"], CineRate="8")).fps == 8


def test_compressed_without_a_transfer_syntax(tmp_path: Path) -> None:
    path = compressed(tmp_path / "a.dcm", JPEGBaseline8Bit, [jpeg(frame) for frame in CLIP], CLIP)
    expected = list(open_file(path))
    path.write_bytes(body(path))
    assert np.array_equal(list(open_file(path)), expected)


def test_times(tmp_path: Path) -> None:
    source = open_file(write_dicom(tmp_path / "a.dcm", CLIP, FrameTimeVector=["0", "20", "60"], FrameDelay="500"))
    assert [round(seconds, 3) for seconds, _ in source.timed()] == [0, 0.02, 0.08]
