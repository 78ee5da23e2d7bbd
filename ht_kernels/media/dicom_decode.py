"""Decoding the frames of a DICOM file: stored values, or RGB, converted exactly once."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .dicom_file import PixelData, Spans, declared_frames, frame_bytes, group_fragments, guess_syntax, read_spans

_EIGHT_BIT_JPEG = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
_RLE = "1.2.840.10008.1.2.5"


def decoder_of(file: BinaryIO, dataset: Any, pixels: PixelData) -> Any:
    """pydicom's decoder for a file.

    Raises:
        ValueError: nothing that is installed decodes its transfer syntax; the message names the packages that would.
    """
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = dataset.original_encoding
    syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID") or guess_syntax(file, pixels)
    if not pixels.encapsulated:
        native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        return get_decoder(native if little else ExplicitVRBigEndian)
    if syntax is None:
        raise ValueError(
            "its pixels are compressed, TransferSyntaxUID, which says how, is missing, and they are neither JPEG nor "
            "JPEG 2000"
        )
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        name = syntax if syntax.is_private or syntax.name == syntax else f"{syntax.name} ({syntax})"
        raise ValueError(
            f"its pixels are compressed as {name}, which cannot be decoded; convert it to another transfer syntax"
        ) from None
    if not decoder.is_available:
        needs = "; ".join(decoder.missing_dependencies)
        raise ValueError(
            f"its pixels are compressed as {syntax.name}, and the package that decodes them is not installed ({needs}):"
            " pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg pyjpegls"
        )
    return decoder


def frames_of(file: BinaryIO, dataset: Any, pixels: PixelData) -> tuple[int, Callable[[BinaryIO, int], NDArray[Any]]]:
    """The number of frames that are there whole, and what decodes one: (H, W) stored values or (H, W, 3) RGB.

    Raises:
        ValueError: the file cannot be decoded.
    """
    decoder = decoder_of(file, dataset, pixels)
    if not pixels.encapsulated:
        _name_what_is_there(dataset, pixels.spans[0][1])
    options = _options(dataset)
    if options["photometric_interpretation"].startswith("YBR_PARTIAL"):
        raise ValueError(f"its pixels are {options['photometric_interpretation']}, expected RGB, YBR_FULL or gray")

    coded = pixels.encapsulated and decoder.UID != _RLE  # the codestream has no unused bits

    def finish(values: NDArray[Any], properties: dict[str, Any]) -> NDArray[Any]:
        if not coded:
            values = _without_unused_bits(values, options, int(dataset.get("HighBit") or 0))
        return _rgb(values, properties)

    if pixels.encapsulated:
        frames = group_fragments(file, pixels.spans, declared_frames(dataset))
        return len(frames), lambda file, i: _compressed(file, frames[i], decoder, options, finish)
    start, length = pixels.spans[0]
    count = length * 8 // _frame_bits(dataset)
    options.update(number_of_frames=count, pixel_vr=pixels.vr)

    def native(file: BinaryIO, index: int) -> NDArray[Any]:
        file.seek(start)
        return finish(*next(decoder.iter_array(file, indices=[index], correct_unused_bits=False, **options)))

    return count, native


def _frame_bits(dataset: Any) -> int:
    """Frames of one bit per pixel follow each other without a gap (PS3.5 8.1.1); others fill whole bytes."""
    if int(dataset.BitsAllocated) == 1:
        return int(dataset.Rows) * int(dataset.Columns)
    return 8 * frame_bytes(dataset)


def _name_what_is_there(dataset: Any, length: int) -> None:
    """Correct a file that says YBR_FULL_422, chroma for two pixels each, and has the chroma of every pixel.

    It has if the pixels of the declared frames are just as long then, or if this alone makes whole frames.
    """
    if dataset.get("PhotometricInterpretation") != "YBR_FULL_422":
        return
    declared, half = declared_frames(dataset) or 0, frame_bytes(dataset)
    dataset.PhotometricInterpretation = "YBR_FULL"
    full = frame_bytes(dataset)
    fits = [length - length % 2 == n - n % 2 for n in (declared * half, declared * full)]
    if fits[0] or not (fits[1] or (length % half > 1 >= length % full)):
        dataset.PhotometricInterpretation = "YBR_FULL_422"


def _options(dataset: Any) -> dict[str, Any]:
    """What pydicom's decoders must know."""
    allocated = int(dataset.BitsAllocated)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    stored = int(dataset.get("BitsStored") or allocated)
    interpretation = str(dataset.get("PhotometricInterpretation") or ("RGB" if samples == 3 else "MONOCHROME2"))
    return {
        "rows": int(dataset.Rows),
        "columns": int(dataset.Columns),
        "samples_per_pixel": samples,
        "bits_allocated": allocated,
        "bits_stored": stored if 1 <= stored <= allocated else allocated,
        "pixel_representation": 1 if dataset.get("PixelRepresentation") == 1 else 0,
        "photometric_interpretation": interpretation,
        "planar_configuration": int(dataset.get("PlanarConfiguration") or 0),
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
    }


def _compressed(
    file: BinaryIO, spans: Spans, decoder: Any, options: dict[str, Any], finish: Callable[..., NDArray[Any]]
) -> NDArray[Any]:
    from pydicom.encaps import encapsulate

    content = read_spans(file, spans)
    if decoder.UID in _EIGHT_BIT_JPEG and options["samples_per_pixel"] == 3:
        return _jpeg(content, options)
    # Codestreams give the samples of a pixel together, whatever the file says. pydicom knows what RLE gives.
    options = {**options, "planar_configuration": 0}
    if decoder.UID == _RLE:
        options["correct_unused_bits"] = False
    return finish(*decoder.as_array(encapsulate([content], has_bot=False), index=0, **options))


def _jpeg(content: bytes, options: dict[str, Any]) -> NDArray[np.uint8]:
    """A frame of colour in 8-bit JPEG.

    The codestream says what its components are, if it can: by a JFIF marker, an Adobe marker (ISO/IEC 10918-6, 6.5.3),
    or components that are called R, G and B, or 1, 2 and 3. libjpeg goes by these, in this order; only components
    called R, G and B are taken for these even behind a JFIF marker. Without any, PhotometricInterpretation decides.
    """
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        if image.size != (options["columns"], options["rows"]):
            raise ValueError(f"it has {image.size[0]}x{image.size[1]} pixels, expected as many as the file declares")
        names = bytes(layer[0] for layer in getattr(image, "layer", []))
        jfif, rgb = "jfif" in image.info, names in (b"RGB", b"rgb")
        said = jfif or rgb or "adobe" in image.info or names == b"\1\2\3"
        if (rgb and jfif) or not (said or options["photometric_interpretation"].startswith("YBR")):
            image.draft("YCbCr", image.size)  # libjpeg takes it for YCbCr; it converts nothing if that is wanted
            return np.array(image)
        return np.array(image.convert("RGB"))


def _without_unused_bits(pixels: NDArray[Any], options: dict[str, Any], high: int) -> NDArray[Any]:
    """Stored values alone (PS3.5 8.1.1): the other bits of a word may hold overlays or anything."""
    stored, word = options["bits_stored"], 8 * pixels.dtype.itemsize
    if stored == word or options["bits_allocated"] == 1:
        return pixels
    high = high if stored - 1 <= high < word else stored - 1
    shifted: NDArray[Any] = (pixels << (word - 1 - high)) >> (word - stored)
    return shifted


def _rgb(pixels: NDArray[Any], properties: dict[str, Any]) -> NDArray[Any]:
    """Check that colour is RGB: pydicom converts what is YBR, and says so."""
    interpretation = str(properties["photometric_interpretation"])
    if pixels.ndim == 3 and (interpretation != "RGB" or pixels.shape[2] != 3):
        raise ValueError(f"its pixels are {interpretation} of {pixels.shape[2]} samples, expected RGB, YBR or gray")
    return pixels
