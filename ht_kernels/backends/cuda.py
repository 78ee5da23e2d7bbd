"""The compiled CUDA backend: kernels in ``ht_kernels._C`` for inference in float32, float16 and bfloat16."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ht_kernels.errors import BackendError
from ht_kernels.folding import FoldedAdapter

from . import core, gpu, torch_private
from .call import Case, FilterCase, Layout, MaskCase

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""The dtypes that the kernels support, with their ``ht_dtype`` values."""
_MAX_BOTTLENECK = 128
MAX_SIDE = 64
"""The largest side of a grid on which the kernels compute a spectral filter."""
NO_KERNELS = "this build has no CUDA kernels: no nvcc that works was found, or HT_KERNELS_CUDA=0, when it was built"
_OLDEST = (7, 5)
_BFLOAT16 = (8, 0)  # the oldest GPUs whose tensor cores have it
_TEGRA = {(8, 7), (10, 1), (11, 0)}  # Orin, and Thor under its two numbers


def can_run(case: Case) -> str | None:
    """None when this backend can run ``case``, else the reason."""
    if reason := _reason(case) or (_grid_reason(case.grid) if case.spectral else None):
        return reason
    if case.dim % 8 or case.bottleneck % 8 or case.bottleneck > _MAX_BOTTLENECK:
        return (
            f"it needs a width and a bottleneck that are multiples of 8, the bottleneck at most {_MAX_BOTTLENECK}, "
            f"and they are {case.dim} and {case.bottleneck}"
        )
    if reason := _device_reason(case.device.index) or core.transforms_reason():
        return reason
    return _bfloat16_reason(case.device.index) if case.dtype == torch.bfloat16 else None


def can_filter(case: FilterCase) -> str | None:
    """None when this backend can run the spectral filter ``case``, else the reason."""
    reason = _reason(case) or _grid_reason(case.grid)
    return reason or _device_reason(case.device.index) or core.transforms_reason()


def can_mask(case: MaskCase) -> str | None:
    """None when this backend can make the masks of ``case``, else the reason."""
    if reason := _place_reason(case.device):
        return reason
    if case.dtype != torch.float32:
        return f"it makes masks of float32, and the logits are {case.dtype}"
    return _device_reason(case.device.index) or core.transforms_reason()


def _place_reason(device: torch.device) -> str | None:
    """The reason why no kernel can run on ``device``, or None. The GPU's architecture is not checked here."""
    if core.missing:
        return core.missing
    if not hasattr(core.module, "CudaAdapter"):
        return NO_KERNELS
    if device.type != "cuda":
        return f"it runs on an NVIDIA GPU, and the tensors are on {device}"
    return None


def _reason(case: Case | FilterCase) -> str | None:
    """The reason why no kernel can run ``case``, or None. The GPU's architecture is not checked here."""
    if reason := _place_reason(case.device):
        return reason
    if case.needs_grad:
        return "it is for inference: it has no gradients and no dropout"
    if case.dtype not in DTYPES:
        return f"it computes float32, float16 and bfloat16, and x is {case.dtype}"
    return None


def _grid_reason(grid: tuple[int, int]) -> str | None:
    if max(grid) <= MAX_SIDE:
        return None
    return f"its spectral filter takes grids of up to {MAX_SIDE}x{MAX_SIDE}, and this one is {grid[0]}x{grid[1]}"


@torch_private.constant_for_compilers
def _device_reason(index: int | None) -> str | None:
    return architecture_reason(core.module.build_info()["cuda_archs"], torch.cuda.get_device_capability(index))


@torch_private.constant_for_compilers
def _bfloat16_reason(index: int | None) -> str | None:
    major, minor = torch.cuda.get_device_capability(index)
    if (major, minor) >= _BFLOAT16:
        return None
    return f"its adapter in bfloat16 needs compute capability 8.0 or newer, and the GPU has {major}.{minor}"


def architecture_reason(archs: Sequence[str], capability: tuple[int, int]) -> str | None:
    """The reason why a build for ``archs`` does not run on a GPU with this compute capability, or None if it does.

    ``archs`` are written as for CMake. ``90-real`` is machine code, which runs on 9.0 and later 9.x. ``90-virtual`` is
    PTX, from which the driver makes machine code for 9.0 and any later GPU. ``90`` is both. With the suffix ``a`` the
    code runs only on this compute capability, with ``f`` only on this family. Machine code for Jetson runs only on
    Jetson, and Jetson runs no other machine code.
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


class CudaAdapter:
    """Weights for tokens of one dtype, as the kernels read them, and the sizes of workspaces by the shape of calls."""

    def __init__(self, folded: FoldedAdapter, dtype: torch.dtype) -> None:
        self.weights = gpu.ready(folded, dtype)  # the compiled object holds their addresses only
        self.launches = core.module.CudaAdapter(self.weights, DTYPES[dtype])
        self.device = self.weights.up_weight.device
        self.prepared = torch.empty(self.launches.prepared(), dtype=torch.uint8, device=self.device)
        if self.prepared.numel():
            with torch.cuda.device(self.device):
                self.launches.prepare(self.prepared.data_ptr(), torch_private.current_stream(self.device.index))
        self.workspaces: dict[tuple[int, Layout], int] = {}

    def workspace(self, batch: int, layout: Layout) -> Tensor:
        """Allocate the workspace of a call: memory that the kernels use between their launches."""
        size = self.workspaces.get((batch, layout))
        if size is None:
            size = self.workspaces[batch, layout] = self.launches.workspace(batch, *layout)
        return torch.empty(size, dtype=torch.uint8, device=self.device)


def prepare(folded: FoldedAdapter, dtype: torch.dtype, grid: tuple[int, int]) -> CudaAdapter:
    """Prepare the weights: cast the matrices to the dtype of tokens, align all weights, and stack what is multiplied.

    Raises:
        BackendError: the driver refused the launch.
    """
    try:
        return CudaAdapter(folded, dtype)
    except RuntimeError as error:
        raise BackendError(str(error)) from error


def infer(prepared: CudaAdapter, x: Tensor, layout: Layout, autocast: bool) -> Tensor:
    """Compute the adapter of ``x`` (B, N, D). The result has the strides of ``x``.

    ``autocast`` allows tensor cores to round the factors of float32 products, as
    ``torch.set_float32_matmul_precision("high")`` does.

    Raises:
        BackendError: the driver refused the launch.
    """
    out = torch.empty_like(x)
    _run(prepared, x, layout, autocast, out, None, 0.0)
    return out


def infer_and_norm(
    prepared: CudaAdapter, x: Tensor, layout: Layout, autocast: bool, norm_eps: float
) -> tuple[Tensor, Tensor]:
    """Compute the adapter as :func:`infer` does, and its LayerNorm without gain and bias, which is contiguous.

    Raises:
        BackendError: the driver refused the launch.
    """
    out, normed = torch.empty_like(x), torch.empty_like(x, memory_format=torch.contiguous_format)
    _run(prepared, x, layout, autocast, out, normed, norm_eps)
    return out, normed


def _run(
    prepared: CudaAdapter,
    x: Tensor,
    layout: Layout,
    autocast: bool,
    out: Tensor,
    normed: Tensor | None,
    norm_eps: float,
) -> None:
    """Write ``out``, and ``normed`` unless it is None."""
    if out.numel() == 0:
        return
    source = _fitting(x)
    if source is None:
        x = x.clone(memory_format=torch.contiguous_format)
        source = core.tokens(x)
    # Where the kernels cannot write a result as it is, they write a contiguous one, which is copied.
    written = out if _fitting(out) else torch.empty_like(x)
    norm_written = normed if normed is None or _fitting(normed) else torch.empty_like(x)
    memory = prepared.workspace(x.size(0), layout)
    index = prepared.device.index
    call = (
        x.size(0),
        *layout,
        autocast or gpu.may_round(),
        prepared.prepared.data_ptr(),
        source,
        core.tokens(written),
        (0, 0, 0) if norm_written is None else core.tokens(norm_written),
        norm_eps,
        memory.data_ptr(),
    )
    if index == torch.cuda.current_device():
        _launch(prepared, call, index)
    else:
        with torch.cuda.device(index):
            _launch(prepared, call, index)
    if written is not out:
        out.copy_(written)
    if normed is not None and norm_written is not None and norm_written is not normed:
        normed.copy_(norm_written)


def _launch(prepared: CudaAdapter, call: tuple[Any, ...], index: int | None) -> None:
    """Launch the kernels on the current stream of the current device."""
    try:
        prepared.launches.forward(*call, torch_private.current_stream(index))  # type: ignore[call-arg]  # it takes 13
    except RuntimeError as error:
        raise BackendError(str(error)) from error


def spectral_filter(x: Tensor, mask: Tensor, out: Tensor) -> None:
    """Write the filtered ``x`` to ``out`` (B, C, H, W), contiguous. ``mask`` is (C or 1, H, W // 2 + 1, 2).

    Raises:
        BackendError: the driver refused the launch.
    """
    x, mask = x.contiguous(), gpu.aligned(mask)
    with torch.cuda.device(x.device):
        stream = torch_private.current_stream(x.device.index)
        sizes = (*x.shape, mask.shape[0])
        try:
            core.module.spectral_filter_cuda(
                sizes, DTYPES[x.dtype], x.data_ptr(), mask.data_ptr(), out.data_ptr(), stream
            )
        except RuntimeError as error:
            raise BackendError(str(error)) from error


def grid_to_mask(logits: Tensor, mask: Tensor) -> None:
    """Write the classes of ``logits`` (B, K, h, w) to ``mask`` (B, H, W) uint8, contiguous.

    Raises:
        BackendError: the driver refused the launch.
    """
    logits = logits.contiguous()
    with torch.cuda.device(logits.device):
        stream = torch_private.current_stream(logits.device.index)
        sizes = (*logits.shape, *mask.shape[1:])
        try:
            core.module.grid_to_mask_cuda(sizes, logits.data_ptr(), mask.data_ptr(), stream)
        except RuntimeError as error:
            raise BackendError(str(error)) from error


def _fitting(t: Tensor) -> tuple[int, int, int] | None:
    """The ``ht_tokens`` of ``t``, or None if the kernels cannot read ``t`` as it is.

    Tokens must be contiguous and start at multiples of 16 bytes.
    """
    tokens = address, batch_stride, token_stride = core.tokens(t)
    fits = t.stride(2) == 1 and not (batch_stride % 8 or token_stride % 8 or address % gpu.ALIGNMENT)
    return tokens if fits else None
