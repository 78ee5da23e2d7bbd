"""Gray and colour of DICOM files, compared with a reading composed of pydicom's own functions."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, convert_color_space, pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
)

from helpers.clips import write_dicom
from helpers.dicom import compressed, jpeg
from helpers.fuzz import budget
from ht_kernels.errors import InputError
from ht_kernels.media.opening import open_file

pytestmark = pytest.mark.filterwarnings("ignore")

RAMP = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
DEEP = np.arange(0, 65536, 64, dtype=np.uint16).reshape(1, 32, 32)


def shown(path: Path) -> np.ndarray:
    return np.stack(list(open_file(path)))


def reading(path: Path) -> np.ndarray:
    """The frames as pydicom's functions and the standard's default ranges give them, (frames, H, W) or (..., 3)."""
    dataset = pydicom.dcmread(path, force=True)
    count = int(dataset.get("NumberOfFrames") or 1)
    pixels = pixel_array(dataset)
    pixels = pixels if count > 1 else pixels[None]
    bits, signed = int(dataset.BitsStored), int(dataset.get("PixelRepresentation") or 0)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colour = apply_color_lut(pixels, dataset)[..., :3]
        return colour >> 8 if colour.max() > 255 else colour
    if pixels.ndim == 4:
        return pixels if bits == 8 else pixels * (255 / (2**bits - 1))
    values = apply_modality_lut(pixels, dataset)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    table = bool(dataset.get("ModalityLUTSequence"))
    if table:
        low, high = 0, 2 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    windowed = dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None
    if dataset.get("VOILUTSequence"):
        # pydicom wraps at 16 bits; tables here are far smaller.
        values = apply_voi_lut(values.clip(None, 60000).astype(np.int32), dataset)
        low, high = 0, 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    else:
        slope, intercept = (1, 0) if table else (dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0))
        values = apply_voi_lut(values, dataset)
        small, large = dataset.get("SmallestImagePixelValue"), dataset.get("LargestImagePixelValue")
        if (
            not (windowed or table or bits <= 8)
            and small is not None
            and large is not None
            and low <= small < large <= high
        ):
            low, high = small, large
        low, high = low * slope + intercept, high * slope + intercept
        if not windowed and low > high:
            low, high = high, low
    gray = np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255
    inverse = dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"
    return 255 - gray if inverse else gray


def agrees(path: Path, atol: float = 1.0) -> None:
    np.testing.assert_allclose(shown(path).astype(float), reading(path).astype(float), atol=atol)


def lookup(values: np.ndarray, first: int = 0, bits: int = 16) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(values) % 65536, first, bits])
    item.add_new("LUTData", "US", [int(value) for value in values])
    return item


INVERTED_8 = lookup(255 - np.arange(256), bits=8)


@pytest.mark.parametrize(
    "attributes",
    [
        {"BitsStored": 7, "HighBit": 6},
        {"ModalityLUTSequence": [INVERTED_8]},
        {"ModalityLUTSequence": [lookup(np.arange(100) * 600, first=20, bits=16)]},
        {"RescaleSlope": "-1", "RescaleIntercept": "255"},
        {"RescaleSlope": "2", "RescaleIntercept": "-100", "WindowCenter": "100", "WindowWidth": "200"},
        {"SmallestImagePixelValue": 20, "LargestImagePixelValue": 220},
        {"SmallestImagePixelValue": 20, "LargestImagePixelValue": 220, "RescaleSlope": "3", "RescaleIntercept": "5"},
        {"VOILUTSequence": [lookup(np.arange(256) ** 2, bits=16)]},
        {"VOILUTSequence": [lookup(255 - np.arange(200), first=30, bits=8)], "WindowCenter": "1", "WindowWidth": "2"},
        {"WindowCenter": ["90", "1"], "WindowWidth": ["120", "2"]},
        {"WindowCenter": "90", "WindowWidth": "120", "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": "90", "WindowWidth": "120", "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": "90", "WindowWidth": "1"},
        {"PresentationLUTShape": "INVERSE"},
        {"PresentationLUTShape": "INVERSE", "PhotometricInterpretation": "MONOCHROME1"},
        {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": "90", "WindowWidth": "120"},
        {"PixelRepresentation": 1},
        {"PixelRepresentation": 1, "RescaleSlope": "1", "RescaleIntercept": "128"},
    ],
    ids=lambda attributes: ",".join(attributes),
)
def test_gray(tmp_path: Path, attributes: dict[str, Any]) -> None:
    pixels = RAMP % 128 if attributes.get("BitsStored") == 7 else RAMP
    path = write_dicom(tmp_path / "a.dcm", np.concatenate([pixels, pixels[:, ::-1]]), **attributes)
    agrees(path)
    assert len(np.unique(shown(path))) > 1


def test_dark_pictures_are_shown_by_the_range_that_is_stated(tmp_path: Path) -> None:
    deep = np.linspace(0, 222, 256).astype(np.uint16).reshape(1, 16, 16)
    path = write_dicom(tmp_path / "a.dcm", deep, SmallestImagePixelValue=0, LargestImagePixelValue=222)
    assert shown(path).max() == 255
    stored7 = write_dicom(tmp_path / "b.dcm", np.full((1, 4, 4), 110, np.uint8), BitsStored=7, HighBit=6)
    assert shown(stored7).max() == 221
    inverted = write_dicom(tmp_path / "c.dcm", RAMP, ModalityLUTSequence=[INVERTED_8])
    assert np.array_equal(shown(inverted)[0], 255 - RAMP[0])


def test_numbers_that_are_empty_or_junk_count_as_missing(tmp_path: Path) -> None:
    for name in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "LargestImagePixelValue"):
        path = write_dicom(tmp_path / "a.dcm", RAMP, **{name: None})
        assert np.array_equal(shown(path), RAMP), name
    path.write_bytes(write_dicom(path, RAMP, RescaleSlope="77").read_bytes().replace(b"77", b"x ", 1))
    assert np.array_equal(shown(path), RAMP)


def test_a_table_of_8_bits_for_values_of_16(tmp_path: Path) -> None:
    """pydicom's own function takes the values modulo 256 here."""
    table = lookup(np.arange(65535) >> 8, bits=8)
    path = write_dicom(tmp_path / "a.dcm", DEEP, VOILUTSequence=[table])
    assert np.array_equal(shown(path), DEEP >> 8)


def test_bits_that_are_not_stored_are_masked(tmp_path: Path) -> None:
    value = np.arange(4096, dtype=np.uint16).reshape(1, 64, 64)
    expected = np.rint(value * (255 / 4095))
    for high in (11, 13, 15):
        noise = np.uint16(0xFFFF) ^ np.uint16(0xFFF << (high - 11))
        path = write_dicom(tmp_path / "a.dcm", (value << (high - 11)) | noise, BitsStored=12, HighBit=high)
        np.testing.assert_allclose(shown(path), expected, atol=0.51)
    signed = write_dicom(tmp_path / "b.dcm", value, BitsStored=12, HighBit=11, PixelRepresentation=1)
    agrees(signed)


def palette(colours: np.ndarray, first: int = 0, bits: int = 16) -> dict[str, Any]:
    """A palette of (entries, 3) colours, whose entries fill 16 bits or 8."""
    attributes: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for place, name in enumerate(("Red", "Green", "Blue")):
        attributes[f"{name}PaletteColorLookupTableDescriptor"] = [len(colours) % 65536, first, bits]
        attributes[f"{name}PaletteColorLookupTableData"] = colours[:, place].tobytes()
    return attributes


COLOURS = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2], 1)


def test_palettes(tmp_path: Path) -> None:
    right = COLOURS[RAMP]
    for table, bits in [
        (COLOURS.astype(np.uint16), 16),  # of 8 bits in 16
        (COLOURS.astype(np.uint16) * 257, 16),
        (COLOURS.astype(np.uint8), 8),
        (COLOURS.astype(np.uint16), 8),
    ]:
        assert np.array_equal(shown(write_dicom(tmp_path / "a.dcm", RAMP, **palette(table, bits=bits))), right)
    shifted = shown(write_dicom(tmp_path / "a.dcm", RAMP, **palette(COLOURS[:100].astype(np.uint8), 50, 8)))
    assert np.array_equal(shifted, COLOURS[np.clip(RAMP.astype(int) - 50, 0, 99)])
    many = np.repeat((np.arange(65536) >> 8).astype(np.uint16)[:, None] * 257, 3, 1)
    assert np.array_equal(shown(write_dicom(tmp_path / "a.dcm", DEEP, **palette(many)))[..., 1], DEEP >> 8)
    wide = np.repeat((np.arange(1000) // 4).astype(np.uint8)[:, None], 3, 1)  # more entries than a byte counts
    few = (DEEP // 70).astype(np.uint16)
    assert np.array_equal(shown(write_dicom(tmp_path / "a.dcm", few, **palette(wide, bits=8)))[..., 0], few // 4)


def test_a_supplemental_palette_leaves_gray_below_it(tmp_path: Path) -> None:
    attributes = palette(COLOURS[:56].astype(np.uint16) * 257, 200)
    attributes |= {"PhotometricInterpretation": "MONOCHROME2", "PixelPresentation": "COLOR"}
    got = shown(write_dicom(tmp_path / "a.dcm", RAMP, **attributes))
    below = RAMP < 200
    assert np.array_equal(got[below], np.repeat(RAMP[below][:, None], 3, 1))
    assert np.array_equal(got[~below], COLOURS[RAMP[~below].astype(int) - 200])


COLOUR = np.random.default_rng(0).integers(0, 256, (2, 16, 18, 3), dtype=np.uint8)
COLOUR[:] = COLOUR.mean((1, 2), keepdims=True) // 1  # one colour for each frame, which JPEG keeps
COLOUR[1] = 200, 40, 90


def test_colour_that_is_not_compressed(tmp_path: Path) -> None:
    planes = COLOUR.transpose(0, 3, 1, 2)
    path = write_dicom(tmp_path / "a.dcm", COLOUR, PlanarConfiguration=1, PixelData=planes.tobytes())
    assert np.array_equal(shown(path), COLOUR)
    deep = COLOUR.astype(np.uint16) * 257
    assert np.array_equal(shown(write_dicom(tmp_path / "a.dcm", deep)), COLOUR)
    ybr = pydicom.pixels.convert_color_space(COLOUR, "RGB", "YBR_FULL")
    path = write_dicom(tmp_path / "a.dcm", ybr, PhotometricInterpretation="YBR_FULL")
    np.testing.assert_allclose(shown(path).astype(int), COLOUR, atol=2)
    halves = np.stack([ybr[:, :, ::2, 0], ybr[:, :, 1::2, 0], ybr[:, :, ::2, 1], ybr[:, :, ::2, 2]], -1)
    path = write_dicom(tmp_path / "a.dcm", ybr, PhotometricInterpretation="YBR_FULL_422", PixelData=halves.tobytes())
    np.testing.assert_allclose(shown(path).astype(int), COLOUR, atol=2)
    with pytest.raises(InputError, match="YBR_PARTIAL_422, expected RGB"):
        shown(write_dicom(tmp_path / "a.dcm", ybr, PhotometricInterpretation="YBR_PARTIAL_422"))


def without_marker(content: bytes, marker: int) -> bytes:
    """A JPEG without its segments of a kind."""
    at, kept = 2, content[:2]
    while content[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        kept += b"" if content[at + 1] == marker else content[at:end]
        at = end
    return kept + content[at:]


def adobe(content: bytes, transform: int) -> bytes:
    """A JPEG with Adobe's segment, which says how colours were transformed."""
    return content[:2] + b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0" + bytes([transform]) + content[2:]


def named(content: bytes, names: bytes) -> bytes:
    """A JPEG with other names of its components, in the frame and in the scan."""
    changed = bytearray(content)
    frame, scan = content.index(b"\xff\xc0") + 10, content.index(b"\xff\xda") + 5
    for i, name in enumerate(names):
        changed[frame + 3 * i], changed[scan + 2 * i] = name, name
    return bytes(changed)


YCC = [without_marker(jpeg(frame), 0xE0) for frame in COLOUR]  # components 1, 2 and 3, and no marker
RGB = [without_marker(jpeg(frame, keep_rgb=True), 0xEE) for frame in COLOUR]  # components R, G and B
JPEGS = {
    "JFIF": [jpeg(frame) for frame in COLOUR],
    "components 1, 2, 3": YCC,
    "components R, G, B": RGB,
    "Adobe says YCbCr": [adobe(content, 1) for content in YCC],
    "Adobe says RGB": [adobe(named(content, b"\1\2\3"), 0) for content in RGB],
}


@pytest.mark.parametrize("said", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("kind", JPEGS)
def test_colour_in_jpeg_is_converted_once(tmp_path: Path, kind: str, said: str) -> None:
    """Whatever the file says: the codestream says it better."""
    attributes = {"PhotometricInterpretation": said, "PlanarConfiguration": 1}
    path = compressed(tmp_path / "a.dcm", JPEGBaseline8Bit, JPEGS[kind], COLOUR, **attributes)
    np.testing.assert_allclose(shown(path).astype(int), COLOUR, atol=4)


@pytest.mark.parametrize(("said", "streams"), [("RGB", RGB), ("YBR_FULL", YCC), ("YBR_FULL_422", YCC)])
def test_where_a_jpeg_does_not_say_its_colours_the_file_does(tmp_path: Path, said: str, streams: list[bytes]) -> None:
    streams = [named(content, b"\0\1\2") for content in streams]
    path = compressed(tmp_path / "a.dcm", JPEGBaseline8Bit, streams, COLOUR, PhotometricInterpretation=said)
    np.testing.assert_allclose(shown(path).astype(int), COLOUR, atol=4)


def group(center: float, width: float) -> Dataset:
    inner, outer = Dataset(), Dataset()
    inner.WindowCenter, inner.WindowWidth = center, width
    outer.FrameVOILUTSequence = [inner]
    return outer


def test_windows_in_functional_groups(tmp_path: Path) -> None:
    """Of all frames, and of each."""
    deep = np.repeat(DEEP >> 4, 2, 0)
    wide, narrow = ({"WindowCenter": center, "WindowWidth": width} for center, width in ((2000, 1000), (500, 100)))
    bits = {"BitsStored": 12, "HighBit": 11}
    first, second = (shown(write_dicom(tmp_path / "a.dcm", deep, **bits, **window))[0] for window in (wide, narrow))
    assert not np.array_equal(first, second)
    shared = {"SharedFunctionalGroupsSequence": [group(2000, 1000)]}
    assert np.array_equal(shown(write_dicom(tmp_path / "b.dcm", deep, **bits, **narrow, **shared)), [first, first])
    each = {"PerFrameFunctionalGroupsSequence": [group(2000, 1000), group(500, 100)]}
    assert np.array_equal(shown(write_dicom(tmp_path / "c.dcm", deep, **bits, **each)), [first, second])


def test_a_file_that_says_half_of_its_chroma(tmp_path: Path) -> None:
    full = convert_color_space(COLOUR, "RGB", "YBR_FULL")
    path = write_dicom(tmp_path / "a.dcm", full, PhotometricInterpretation="YBR_FULL_422")
    assert open_file(path).warnings == []
    np.testing.assert_allclose(shown(path).astype(int), COLOUR, atol=2)


@pytest.mark.parametrize("said", ["RGB", "YBR_RCT", "YBR_ICT"])
def test_colour_in_jpeg_2000(tmp_path: Path, said: str) -> None:
    streams = []
    for frame in COLOUR:
        content = io.BytesIO()
        Image.fromarray(frame).save(content, "jpeg2000", irreversible=False, no_jp2=True, mct=1)
        streams.append(content.getvalue())
    path = compressed(tmp_path / "a.dcm", JPEG2000Lossless, streams, COLOUR, PhotometricInterpretation=said)
    assert np.array_equal(shown(path), COLOUR)


FILES = Path(pydicom.__file__).parent / "data/test_files"


@pytest.mark.parametrize("name", sorted(path.name for path in FILES.glob("*.dcm")))
def test_every_file_of_pydicom(tmp_path: Path, name: str) -> None:
    """Marked as ultrasound, it is decoded as pydicom does, or refused with a reason."""
    original = FILES / name
    path = tmp_path / "a.dcm"
    try:
        dataset = pydicom.dcmread(original, force=True)
        dataset.Modality = "US"
        dataset.SOPClassUID = UltrasoundMultiFrameImageStorage
        dataset.save_as(path)
    except Exception:  # pydicom cannot write what it read
        path.write_bytes(original.read_bytes())
    try:
        got = shown(path)
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error) and not str(error).rstrip().endswith(":")
        try:
            reading(path)
        except Exception:
            return
        modality = str(pydicom.dcmread(path, force=True).get("Modality"))
        assert modality != "US" or "floating-point" in str(error), f"{error} although pydicom decodes it"
        return
    try:
        expected = reading(path)
    except ValueError:  # badVR.dcm: NumberOfFrames is no number, which pydicom's decoders need
        assert name == "badVR.dcm"
        return
    np.testing.assert_allclose(got.astype(float), expected.astype(float), atol=1.0)


LAYOUTS = st.sampled_from([(8, 8), (8, 7), (8, 5), (16, 16), (16, 12), (16, 9)])
SYNTAXES = st.sampled_from(
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
    ]
)
WINDOWS = st.sampled_from(
    [
        {},
        {"WindowCenter": "50", "WindowWidth": "80"},
        {"WindowCenter": ["30", "2"], "WindowWidth": ["1", "3"]},
        {"WindowCenter": "20", "WindowWidth": "40.5", "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": "60", "WindowWidth": "30", "VOILUTFunction": "SIGMOID"},
        {"VOILUTSequence": [lookup(np.arange(128) * 500)]},
        {"SmallestImagePixelValue": 3, "LargestImagePixelValue": 14},
    ]
)
MODALITIES = st.sampled_from(
    [
        {},
        {"RescaleSlope": "2", "RescaleIntercept": "-30"},
        {"RescaleSlope": "-1.5", "RescaleIntercept": "9"},
        {"ModalityLUTSequence": [lookup(60000 - np.arange(200) * 300)]},
    ]
)


@budget(100)
@given(st.data())
def test_any_gray_file(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    allocated, stored = data.draw(LAYOUTS, "bits")
    signed = data.draw(st.booleans(), "signed")
    syntax = data.draw(SYNTAXES, "syntax")
    seed = data.draw(st.integers(0, 99), "seed")
    dtype = np.dtype(f"{'i' if signed else 'u'}{allocated // 8}")
    low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1)) if signed else (0, 2**stored)
    # Sorted, for noise does not fit into the buffer of the JPEG-LS encoder.
    pixels = np.sort(np.random.default_rng(seed).integers(low, high, (2, 1024)), 1).reshape(2, 32, 32).astype(dtype)
    attributes = {**data.draw(MODALITIES, "modality"), **data.draw(WINDOWS, "window")}
    if syntax == JPEGLSLossless and signed and stored < allocated:
        pixels = np.abs(np.maximum(pixels, low + 1))  # JPEG-LS has no sign to extend
    interpretation = data.draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"]), "interpretation")
    path = tmp_path_factory.getbasetemp() / "any.dcm"
    write_dicom(
        path, pixels, BitsStored=stored, HighBit=stored - 1, PixelRepresentation=int(signed),
        PhotometricInterpretation=interpretation, **attributes,
    )  # fmt: skip
    dataset = pydicom.dcmread(path)
    if syntax.is_encapsulated:
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path)
    elif syntax == ExplicitVRBigEndian:
        dataset.PixelData = pixels.byteswap().tobytes() if allocated == 16 else pixels.tobytes()
        dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"
        dataset.file_meta.TransferSyntaxUID = syntax
        list(dataset.iterall())  # decoded, so that they are written in the other order
        pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=False, force_encoding=True)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=True)
    agrees(path)
