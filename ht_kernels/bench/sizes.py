"""The sizes of one adapter that is timed, read from the command line without torch."""

from __future__ import annotations

from ht_kernels.errors import InputError

WITH_FREQUENCY = ("freq_enhanced", "hybrid")
WITH_NOISE = ("noise_aware", "hybrid")


def read_sizes(
    shape: str, grid: str | None, variant: str, spectral: str | None
) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """Read ``--shape B,N,D,C`` and ``--grid H,W`` of an adapter.

    Raises:
        InputError: an option cannot be read, or does not fit the others.
    """
    batch, tokens, dim, bottleneck = numbers("--shape", shape, "B,N,D,C", "8,197,768,64")
    if grid is None:
        raise InputError("--shape needs --grid H,W, the patch grid, such as --grid 14,14")
    height, width = numbers("--grid", grid, "H,W", "14,14")
    if tokens < height * width:
        raise InputError(
            f"--grid {grid} has {height * width} patches and --shape {shape} only {tokens} tokens; expected "
            "N = H W and the prefix tokens"
        )
    if spectral is not None and variant not in WITH_FREQUENCY:
        raise InputError(f"--spectral {spectral} needs --variant freq_enhanced or hybrid, got {variant}")
    if bottleneck < 4 and variant in WITH_NOISE:
        raise InputError(f"--shape {shape} has a bottleneck of {bottleneck}; --variant {variant} needs at least 4")
    return (batch, tokens, dim, bottleneck), (height, width)


def numbers(option: str, text: str, form: str, example: str) -> list[int]:
    """Read whole numbers of 1 or more, separated by commas, as many as ``form`` has letters.

    Raises:
        InputError: they are others; the message names the ``option``.
    """
    found = [int(word) if word.strip().isdecimal() else 0 for word in text.split(",")]
    if len(found) != len(form.split(",")) or min(found) < 1:
        raise InputError(f"{option} {text} was given, expected {form}, whole numbers of 1 or more, such as {example}")
    return found
