"""A function under torch.compile, used only where its results agree with those of the function itself."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from types import FunctionType

import torch
from torch import Tensor

from ht_kernels.errors import InputError, reason
from ht_kernels.log import log

MODE = "max-autotune-no-cudagraphs"
"""Without CUDA graphs, because the caller captures the compiled function in a graph of its own."""
TOLERANCE = 32
"""The largest relative L2 difference, in units of the rounding error of the dtype. In the same units, plain logits of a
ViT-B/16 with random weights are up to 6 off float64 in float32, and up to 0.9 in 16 bits."""

Function = Callable[[Tensor], tuple[Tensor, ...]]

_ROUNDING = {"highest": torch.float32, "high": torch.float16, "medium": torch.bfloat16}
"""What float32 products round to, by torch's setting; TF32 has as many bits as float16."""


def check_on_gpu(device: torch.device) -> None:
    """Refuse to compile a model that is not on a GPU: only CUDA graphs take a compiled one.

    Raises:
        InputError: it is not.
    """
    if device.type != "cuda":
        raise InputError(
            f"compiled is for a model on an NVIDIA GPU, and this one is on {device}: leave it out, or move the model"
        )


def compiled(function: Function, frames: Tensor, dtype: torch.dtype) -> Function:
    """Return ``function`` compiled for frames like ``frames``, or ``function`` itself where that does not work.

    It does not work where torch.compile fails, on anything or on this function, or where a compiled result differs from
    the plain one by more than :data:`TOLERANCE` times the rounding error of ``dtype``, in which the function computes.
    The log then has a warning with the cause. What the function raises is raised.
    """
    cause = why_not(frames.device)
    if cause is None:
        expected = function(frames)
        try:
            start = time.perf_counter()
            # torch.compile keeps what it compiled with the code of a function, and no more than eight times for each.
            own = FunctionType(function.__code__.replace(), function.__globals__, closure=function.__closure__)
            found: Function = torch.compile(own, fullgraph=True, dynamic=False, mode=MODE)
            cause = _difference(found(frames), expected, dtype)
            seconds = time.perf_counter() - start
        except Exception as error:  # compilers and what they call raise anything
            cause = f"{type(error).__name__}: {reason(error)}"
        if cause is None:
            log.info("torch.compile: frames %s %s compiled in %.1f s", tuple(frames.shape), frames.dtype, seconds)
            return found
    log.warning("torch.compile is not used for frames %s %s: %s", tuple(frames.shape), frames.dtype, cause)
    return function


@functools.cache
def why_not(device: torch.device) -> str | None:
    """Why torch.compile does not work on ``device``, in words; None if it does. It is tried once, on an addition."""
    try:
        zeros = torch.zeros(8, device=device)
        result = torch.compile(lambda x: x + 1, fullgraph=True, dynamic=False)(zeros)
        cause = None if bool((result == 1).all()) else "it gets 0 + 1 wrong"
    except Exception as error:  # compilers and what they call raise anything
        cause = f"{type(error).__name__}: {reason(error)}"
    log.info("torch.compile: %s on %s", "works" if cause is None else f"does not work ({cause})", device)
    return cause


def _difference(got: tuple[Tensor, ...], expected: tuple[Tensor, ...], dtype: torch.dtype) -> str | None:
    """In words, what is wrong with results of a function that computes in ``dtype``; None if nothing is."""
    if dtype == torch.float32:
        dtype = _ROUNDING[torch.get_float32_matmul_precision()]
    limit = TOLERANCE * torch.finfo(dtype).eps
    for one, right in zip(got, expected, strict=True):
        if one.shape != right.shape or one.dtype != right.dtype:
            return f"its result is {tuple(one.shape)} {one.dtype}, expected {tuple(right.shape)} {right.dtype}"
        error = float((one - right).norm() / right.norm())
        if not error <= limit:  # also where it is not a number
            return f"its result differs by {error:.1e}, and {limit:.1e} is allowed"
    return None
