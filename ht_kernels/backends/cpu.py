"""The compiled CPU backend: C++ kernels in ``ht_kernels._C`` for forward and backward in float32 and bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor

from ht_kernels.folding import FoldedAdapter, FoldParts, FoldResults

from . import core
from .call import Case, FilterCase, Layout, MaskCase, Training, unit_stride


def can_run(case: Case) -> str | None:
    """None when this backend can run ``case``, else the reason."""
    return _reason(case, (torch.float32, torch.bfloat16), "it computes float32 and bfloat16, and x is")


def can_filter(case: FilterCase) -> str | None:
    """None when this backend can run the spectral filter ``case``, else the reason."""
    return _reason(case, (torch.float32,), "it filters float32, and x is")


def can_mask(case: MaskCase) -> str | None:
    """None when this backend can make the masks of ``case``, else the reason."""
    return _reason(case, (torch.float32,), "it makes masks of float32, and the logits are")


def _reason(case: Case | FilterCase | MaskCase, dtypes: tuple[torch.dtype, ...], of_dtypes: str) -> str | None:
    """The reason why no kernel for ``dtypes`` can run ``case``, or None; ``of_dtypes`` starts a sentence about them."""
    if core.missing:
        return core.missing
    if case.device.type != "cpu":
        return f"it runs on the CPU, and the tensors are on {case.device}"
    if case.dtype not in dtypes:
        return f"{of_dtypes} {case.dtype}"
    return core.transforms_reason()


def prepare(folded: FoldedAdapter, dtype: torch.dtype, grid: tuple[int, int]) -> core.module.CpuAdapter:
    """Prepare the weights: the compiled object packs them for the kernels, in float32.

    With bfloat16 as ``dtype``, on a processor with AVX512-BF16, the matrices of the two projections are packed in
    bfloat16, and the kernels round what they multiply by them. Sums stay in float32, and so does everything else.
    """
    return core.module.CpuAdapter(folded.map(lambda t: t.float().contiguous()), *grid, dtype is torch.bfloat16)


prepare_training = prepare


def bfloat16_reason() -> str | None:
    """The reason why the kernels have no instruction for products of bfloat16, or None if they have one."""
    if core.missing:
        return core.missing
    isa = core.module.cpu_isa()
    return None if isa == "avx512_bf16" else f"the kernels use {isa}, and only avx512_bf16 multiplies bfloat16"


def infer(prepared: core.module.CpuAdapter, x: Tensor, layout: Layout, autocast: bool) -> Tensor:
    """Compute the adapter of ``x`` (B, N, D). The result has the strides of ``x``.

    The weights were prepared for the dtype of products, so ``autocast`` changes nothing more.
    """
    out = torch.empty_like(x)
    if x.is_contiguous():  # then out has the same strides; asking for them once saves a tenth of the call's Python time
        batch_stride, token_stride, _ = x.stride()
        source, target = (x.data_ptr(), batch_stride, token_stride), (out.data_ptr(), batch_stride, token_stride)
        _launch(prepared, x, layout, source, target)
    else:
        _forward(prepared, x, layout, None, out)
    return out


def empty_state(x: Tensor, folded: FoldedAdapter, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate the state that :func:`forward` keeps for :func:`backward`, in float32.

    It consists of the bottleneck (B, N, C), mean and 1/std of the tokens (B, N, 2), and an empty tensor.
    """
    batch, tokens, _ = x.shape
    h = x.new_empty((batch, tokens, folded.up_weight.shape[1]), dtype=torch.float32)
    return h, x.new_empty((batch, tokens, 2), dtype=torch.float32), x.new_empty((0,), dtype=torch.float32)


def forward(
    prepared: core.module.CpuAdapter, folded: FoldedAdapter, x: Tensor, layout: Layout, training: Training
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the adapter of ``x``, and the state that :func:`backward` needs; see :func:`empty_state`."""
    out, state = torch.empty_like(x), empty_state(x, folded, training.dtype)
    _forward(prepared, x, layout, training.keep, out, state[0].data_ptr(), state[1].data_ptr())
    return out, *state


def backward(
    prepared: core.module.CpuAdapter,
    folded: FoldedAdapter,
    grad_out: Tensor,
    x: Tensor,
    layout: Layout,
    training: Training,
    state: tuple[Tensor, Tensor, Tensor],
    grad_x: Tensor | None,
) -> FoldedAdapter:
    """Compute the float32 gradients of the folded weights, None for weights that are None; fill ``grad_x`` if given.

    The last dimension of all tokens is contiguous.
    """
    grads = folded.map(lambda t: torch.empty_like(t, dtype=torch.float32, memory_format=torch.contiguous_format))
    h, stats, _ = (t.contiguous() for t in state)
    keep = None if training.keep is None else training.keep.contiguous()
    prepared.backward(
        x.shape[0],
        *layout,
        x.dtype is torch.bfloat16,
        core.tokens(grad_out),
        core.tokens(x),
        0 if keep is None else keep.data_ptr(),
        h.data_ptr(),
        stats.data_ptr(),
        (0, 0, 0) if grad_x is None else core.tokens(grad_x),
        grads,
        torch.get_num_threads(),
    )
    return grads


def fold_and_forward(
    sizes: tuple[int, int, int, int],
    parts: FoldParts,
    others: FoldedAdapter,
    x: Tensor,
    layout: Layout,
    training: Training,
) -> tuple[Tensor, Tensor]:
    """Fold ``parts``, and compute the adapter of ``x`` with the results and the weights in ``others``.

    ``sizes`` are those of the fold: D, C, hidden channels and gains. All weights are contiguous, in float32.

    Returns:
        The adapter's output, and the state that :func:`fold_and_backward` needs; see :func:`unpack_state`.
    """
    out, source = torch.empty_like(x), unit_stride(x)
    target = out if out.stride(2) == 1 else torch.empty_like(source)
    keep = None if training.keep is None else training.keep.contiguous()
    batch, tokens, _ = x.shape
    kept = core.module.step_state(sizes) + batch * tokens * (sizes[1] + 2)
    state = x.new_empty((kept,), dtype=torch.float32)
    core.module.step_forward(
        *_step(sizes, others, x, layout),
        training.dtype is torch.bfloat16,
        parts,
        others,
        core.tokens(source),
        0 if keep is None else keep.data_ptr(),
        core.tokens(target),
        state.data_ptr(),
        torch.get_num_threads(),
    )
    return (out if target is out else out.copy_(target)), state


def fold_and_backward(
    sizes: tuple[int, int, int, int],
    parts: FoldParts,
    others: FoldedAdapter,
    grad_out: Tensor,
    x: Tensor,
    layout: Layout,
    keep: Tensor | None,
    state: Tensor,
    needs_x: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of ``x``, None unless ``needs_x``, then of all parts, then of the other weights in their order."""
    grad_out, x, state = unit_stride(grad_out), unit_stride(x), state.contiguous()
    keep = None if keep is None else keep.contiguous()
    grad_x = torch.empty_like(x) if needs_x else None
    part_grads = FoldParts(*(None if t is None else torch.empty_like(t) for t in parts))  # type: ignore[arg-type]
    grads = others._replace(down_weight=None).map(torch.empty_like)  # type: ignore[arg-type]
    core.module.step_backward(
        *_step(sizes, others, x, layout),
        parts,
        others,
        core.tokens(grad_out),
        core.tokens(x),
        0 if keep is None else keep.data_ptr(),
        state.data_ptr(),
        (0, 0, 0) if grad_x is None else core.tokens(grad_x),
        part_grads,
        grads._replace(down_weight=part_grads.down_weight),
        torch.get_num_threads(),
    )
    skipped = "down_weight", *FoldResults._fields
    return grad_x, *part_grads, *(g for name, g in zip(grads._fields, grads, strict=True) if name not in skipped)


def unpack_state(state: Tensor, x: Tensor, folded: FoldedAdapter) -> tuple[Tensor, Tensor, Tensor]:
    """The state that :func:`backward` needs, from that of :func:`fold_and_forward`.

    The latter has the results of the fold, then the bottleneck (B, N, C), then mean and 1/std of the tokens (B, N, 2).
    """
    batch, tokens, channels = *x.shape[:2], folded.up_weight.shape[1]
    stats = state.numel() - batch * tokens * 2
    h = stats - batch * tokens * channels
    kept = state[h:stats].view(batch, tokens, channels), state[stats:].view(batch, tokens, 2)
    return *kept, x.new_empty((0,), dtype=torch.float32)


def _step(
    sizes: tuple[int, int, int, int], others: FoldedAdapter, x: Tensor, layout: Layout
) -> tuple[tuple[int, int, int, int], int, tuple[int, int, int, int], float, bool]:
    masks = 0 if others.mask is None else others.mask.shape[0]
    return sizes, masks, (x.shape[0], *layout[:3]), layout.eps, x.dtype is torch.bfloat16


def spectral_filter(x: Tensor, mask: Tensor, out: Tensor) -> None:
    """Write the filtered ``x`` to ``out`` (B, C, H, W), contiguous. ``mask`` is (C or 1, H, W // 2 + 1, 2)."""
    x, mask = x.contiguous(), mask.contiguous()
    sizes = (*x.shape, mask.shape[0])
    core.module.spectral_filter(sizes, x.data_ptr(), mask.data_ptr(), out.data_ptr(), torch.get_num_threads())


def spectral_filter_backward(grad_out: Tensor, x: Tensor, mask: Tensor, grad_x: Tensor, grad_mask: Tensor) -> None:
    """Write the gradients to ``grad_x`` and ``grad_mask``, both contiguous."""
    grad_out, x, mask = grad_out.contiguous(), x.contiguous(), mask.contiguous()
    core.module.spectral_filter_backward(
        (*x.shape, mask.shape[0]),
        grad_out.data_ptr(),
        x.data_ptr(),
        mask.data_ptr(),
        grad_x.data_ptr(),
        grad_mask.data_ptr(),
        torch.get_num_threads(),
    )


def grid_to_mask(logits: Tensor, mask: Tensor) -> None:
    """Write the classes of ``logits`` (B, K, h, w) to ``mask`` (B, H, W) uint8, contiguous."""
    logits = logits.contiguous()
    sizes = (*logits.shape, *mask.shape[1:])
    core.module.grid_to_mask(sizes, logits.data_ptr(), mask.data_ptr(), torch.get_num_threads())


def _forward(
    prepared: core.module.CpuAdapter,
    x: Tensor,
    layout: Layout,
    keep: Tensor | None,
    out: Tensor,
    h: int = 0,
    stats: int = 0,
) -> None:
    """Fill ``out``, and the state if its addresses ``h`` and ``stats`` are given. Tokens may have any strides."""
    source = unit_stride(x)
    target = out if out.stride(2) == 1 else torch.empty_like(source)
    keep = None if keep is None else keep.contiguous()
    address = 0 if keep is None else keep.data_ptr()
    _launch(prepared, x, layout, core.tokens(source), core.tokens(target), address, h, stats)
    if target is not out:
        out.copy_(target)


def _launch(
    prepared: core.module.CpuAdapter,
    x: Tensor,
    layout: Layout,
    source: tuple[int, int, int],
    target: tuple[int, int, int],
    keep: int = 0,
    h: int = 0,
    stats: int = 0,
) -> None:
    bfloat16, threads = x.dtype is torch.bfloat16, torch.get_num_threads()
    prepared.forward(x.size(0), *layout, bfloat16, source, keep, target, h, stats, threads)
