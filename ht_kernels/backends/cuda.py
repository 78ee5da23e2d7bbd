"""The compiled CUDA backend: two kernels behind ``ht_kernels._C`` for inference, in float32, float16 and bfloat16."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import core

if TYPE_CHECKING:
    from . import Case

MATRICES = (0, 10, 12)
"""Which folded weights the kernels take in the dtype of x: down_weight, mix_weight, up_weight."""

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # ht_dtype
_MAX_BOTTLENECK = 128
_ALIGNMENT = 16


def can_run(case: Case) -> str | None:
    """None when this backend can run ``case``, else the reason."""
    if core.module is None:
        return core.missing
    if not hasattr(core.module, "adapter_forward_cuda"):
        return "this build has no CUDA kernels: nvcc was not found, or HT_KERNELS_CUDA=0, when it was built"
    if case.device.type != "cuda":
        return f"it runs on an NVIDIA GPU, and the tensors are on {case.device}"
    if case.needs_grad:
        return "it is for inference: it has no gradients and no dropout"
    if case.dtype not in _DTYPES:
        return f"it computes float32, float16 and bfloat16, and x is {case.dtype}"
    if case.dim % 8 or case.bottleneck % 8 or case.bottleneck > _MAX_BOTTLENECK:
        return (
            f"it needs a width and a bottleneck that are multiples of 8, the bottleneck at most {_MAX_BOTTLENECK}, "
            f"and they are {case.dim} and {case.bottleneck}"
        )
    return _device_reason(case.device.index) or core.transforms_reason()


@functools.cache
def _device_reason(index: int | None) -> str | None:
    assert core.module is not None
    return architecture_reason(core.module.build_info()["cuda_archs"], torch.cuda.get_device_capability(index))


def architecture_reason(archs: Iterable[str], capability: tuple[int, int]) -> str | None:
    """Why a build for ``archs`` does not run on a GPU of compute capability ``capability``; None when it does.

    ``archs`` are CMake's: ``90-real`` is machine code for 9.x from 9.0 on, ``90-virtual`` is PTX, which any newer GPU
    takes, ``90`` is both; the suffix ``a`` stands for that GPU alone, ``f`` for its family.
    """
    for arch in archs:
        found = re.fullmatch(r"(\d+)(\d)([af]?)(-real|-virtual)?", arch)
        if not found:
            continue
        target, specific, kind = (int(found[1]), int(found[2])), found[3], found[4]
        if specific == "a":
            runs = capability == target
        elif specific == "f" or kind == "-real":
            runs = capability[0] == target[0] and capability >= target
        else:
            runs = capability >= target
        if runs:
            return None
    major, minor = capability
    return (
        f"the GPU has compute capability {major}.{minor}, and this build is for {' '.join(archs)}; "
        f"build with HT_KERNELS_CUDA_ARCHS={major}{minor}"
    )


def infer(
    x: Tensor,
    weights: Sequence[Tensor | None],
    grid_height: int,
    grid_width: int,
    prefix_tokens: int,
    eps: float,
    tf32: bool,
) -> Tensor:
    """The adapter of ``x``; arguments as in ``ht_kernels.h``. ``tf32`` lets tensor cores round float32 products."""
    assert core.module is not None, core.missing
    out = torch.empty_like(x)
    if out.numel() == 0:
        return out
    weights = [_ready(w, x.dtype if i in MATRICES else torch.float32) for i, w in enumerate(weights)]
    source = x if _fits(x) else x.clone(memory_format=torch.contiguous_format)
    target = out if _fits(out) else torch.empty_like(source)
    sizes = core.sizes(x, weights, grid_height, grid_width, prefix_tokens)
    dtype = _DTYPES[x.dtype]
    with torch.cuda.device(x.device):
        memory = torch.empty(
            core.module.adapter_forward_workspace_cuda(sizes, dtype), dtype=torch.uint8, device=x.device
        )
        core.module.adapter_forward_cuda(
            sizes,
            eps,
            dtype,
            tf32,
            [core.address(w) for w in weights],
            core.tokens(source),
            core.tokens(target),
            memory.data_ptr(),
            torch.cuda.current_stream().cuda_stream,
        )
    return out if target is out else out.copy_(target)


def _ready(weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if weight is None:
        return None
    weight = weight.to(dtype).contiguous()
    return weight if weight.data_ptr() % _ALIGNMENT == 0 else weight.clone()


def _fits(t: Tensor) -> bool:
    """Whether rows start at multiples of 16 bytes, as the kernels load them."""
    return t.stride(2) == 1 and t.stride(0) % 8 == 0 and t.stride(1) % 8 == 0 and t.data_ptr() % _ALIGNMENT == 0
