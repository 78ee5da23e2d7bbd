"""The compiled CUDA backend: kernels behind ``ht_kernels._C`` for inference, in float32, float16 and bfloat16."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ht_kernels.errors import BackendError

from . import core

if TYPE_CHECKING:
    from . import Case, FilterCase

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""What the kernels compute, as ``ht_dtype``."""
_MAX_BOTTLENECK = 128
MAX_SIDE = 64
"""Of a grid with a spectral filter."""
NO_KERNELS = "this build has no CUDA kernels: no nvcc that works was found, or HT_KERNELS_CUDA=0, when it was built"
_OLDEST = (7, 5)
_TEGRA = {(8, 7), (10, 1), (11, 0)}  # Orin, and Thor by its two names: other GPUs do not run their machine code


def can_run(case: Case) -> str | None:
    """None when this backend can run ``case``, else the reason."""
    if reason := _reason(case) or (_grid_reason(case.grid) if case.spectral else None):
        return reason
    if case.dim % 8 or case.bottleneck % 8 or case.bottleneck > _MAX_BOTTLENECK:
        return (
            f"it needs a width and a bottleneck that are multiples of 8, the bottleneck at most {_MAX_BOTTLENECK}, "
            f"and they are {case.dim} and {case.bottleneck}"
        )
    return _device_reason(case.device.index) or core.transforms_reason()


def can_filter(case: FilterCase) -> str | None:
    """None when this backend can run the spectral filter ``case``, else the reason."""
    reason = _reason(case) or _grid_reason(case.grid)
    return reason or _device_reason(case.device.index) or core.transforms_reason()


def _reason(case: Case | FilterCase) -> str | None:
    """Why no kernel can run ``case``, the GPU aside."""
    if core.module is None:
        return core.missing
    if not hasattr(core.module, "adapter_forward_cuda"):
        return NO_KERNELS
    if case.device.type != "cuda":
        return f"it runs on an NVIDIA GPU, and the tensors are on {case.device}"
    if case.needs_grad:
        return "it is for inference: it has no gradients and no dropout"
    if case.dtype not in DTYPES:
        return f"it computes float32, float16 and bfloat16, and x is {case.dtype}"
    return None


def _grid_reason(grid: tuple[int, int]) -> str | None:
    if max(grid) <= MAX_SIDE:
        return None
    return f"its spectral filter takes grids of up to {MAX_SIDE}x{MAX_SIDE}, and this one is {grid[0]}x{grid[1]}"


@core.constant_for_compilers
def _device_reason(index: int | None) -> str | None:
    assert core.module is not None
    return architecture_reason(core.module.build_info()["cuda_archs"], torch.cuda.get_device_capability(index))


def architecture_reason(archs: Sequence[str], capability: tuple[int, int]) -> str | None:
    """Why a build for ``archs`` does not run on a GPU of compute capability ``capability``; None when it does.

    ``archs`` are CMake's: ``90-real`` is machine code for 9.x from 9.0 on, ``90-virtual`` is PTX, from which the driver
    makes machine code for any newer GPU, ``90`` is both; the suffix ``a`` stands for that GPU alone, ``f`` for its
    family. Machine code for Jetson runs there alone, and Jetson runs no other.
    """
    if not archs:
        return NO_KERNELS
    if any(_serves(arch, capability) for arch in archs):
        return None
    reason = f"the GPU has compute capability {capability[0]}.{capability[1]}, and this build is for {' '.join(archs)}"
    if capability < _OLDEST:
        return f"{reason}; the kernels need {_OLDEST[0]}.{_OLDEST[1]} or newer"
    return (
        f"{reason}; HT_KERNELS_CUDA_ARCHS={capability[0]}{capability[1]} pip install . in the source tree builds for it"
    )


def _serves(arch: str, capability: tuple[int, int]) -> bool:
    found = re.fullmatch(r"(\d+)(\d)([af]?)(-real|-virtual)?", arch)
    assert found is not None, arch
    target, suffix, kind = (int(found[1]), int(found[2])), found[3], found[4]
    if suffix == "a":
        return capability == target
    same_kind = capability == target or not _TEGRA & {capability, target}
    if suffix == "f" or kind == "-real":
        return same_kind and capability[0] == target[0] and capability >= target
    return capability >= target


def plan(
    x: Tensor,
    weights: Sequence[Tensor | None],
    grid_height: int,
    grid_width: int,
    prefix_tokens: int,
    eps: float,
    tf32: bool,
) -> Callable[[Tensor], Tensor]:
    """The adapter of tensors with the shape, dtype and device of ``x``, as a function that has only the launch to do.

    Arguments as in ``ht_kernels.h``. ``tf32`` lets tensor cores round float32 products. The function raises
    BackendError where the driver refuses a launch.
    """
    assert core.module is not None, core.missing
    ready, addresses = core.ready_for_gpu(x.dtype, weights)
    sizes = core.sizes(x, ready, grid_height, grid_width, prefix_tokens)
    dtype, device, index = DTYPES[x.dtype], x.device, x.device.index
    work_bytes, forward = core.module.adapter_forward_workspace_cuda(sizes, dtype), core.module.adapter_forward_cuda

    def launch(x: Tensor, out: Tensor, held: Sequence[Tensor | None] = ready) -> None:  # held: what addresses point to
        memory = torch.empty(work_bytes, dtype=torch.uint8, device=device)
        stream = torch._C._cuda_getCurrentRawStream(index)  # a tenth of the time of torch.cuda.current_stream
        try:
            forward(sizes, eps, dtype, tf32, addresses, core.tokens(x), core.tokens(out), memory.data_ptr(), stream)
        except RuntimeError as error:
            raise BackendError(str(error)) from error

    def run(x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        if out.numel() == 0:
            return out
        source = x if _fits(x) else x.clone(memory_format=torch.contiguous_format)
        target = out if _fits(out) else torch.empty_like(source)
        if index == torch.cuda.current_device():
            launch(source, target)
        else:
            with torch.cuda.device(index):
                launch(source, target)
        return out if target is out else out.copy_(target)

    return run


def spectral_filter(x: Tensor, mask: Tensor, out: Tensor) -> None:
    """Fill ``out`` (B, C, H, W), contiguous; ``mask`` (C or 1, H, W // 2 + 1, 2).

    Raises:
        BackendError: the driver refused the launch.
    """
    assert core.module is not None, core.missing
    x, mask = x.contiguous(), mask.contiguous()
    if mask.data_ptr() % core.ALIGNMENT:
        mask = mask.clone()
    with torch.cuda.device(x.device):
        stream = torch._C._cuda_getCurrentRawStream(x.device.index)
        sizes, addresses = (*x.shape, mask.shape[0]), [t.data_ptr() for t in (x, mask, out)]
        try:
            core.module.spectral_filter_cuda(sizes, DTYPES[x.dtype], *addresses, stream)
        except RuntimeError as error:
            raise BackendError(str(error)) from error


def _fits(t: Tensor) -> bool:
    """Whether rows start at multiples of 16 bytes, as the kernels load them."""
    batch_stride, token_stride, stride = t.stride()
    return stride == 1 and batch_stride % 8 == 0 and token_stride % 8 == 0 and t.data_ptr() % core.ALIGNMENT == 0
