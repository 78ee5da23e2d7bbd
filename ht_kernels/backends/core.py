"""The compiled module ``ht_kernels._C``, or why there is none; and tokens as it takes them."""

from __future__ import annotations

from torch import Tensor

from ht_kernels.folding import FoldedAdapter

from . import torch_private

__all__ = ["missing", "module", "tokens", "transforms_reason"]

missing = ""
"""Why there is no compiled module; empty where there is one."""
try:
    # After torch: the kernels then find its OpenMP library loaded and share its threads.
    from ht_kernels import _C as module
except ImportError as error:
    missing = f"the compiled core ht_kernels._C could not be imported ({error})"
else:
    if module.adapter_weights() != list(FoldedAdapter._fields):
        missing = (
            "the compiled core ht_kernels._C was built for other folded weights than this package has: "
            f"{', '.join(module.adapter_weights())}; install the package again"
        )


def transforms_reason() -> str | None:
    """Why no compiled backend can run inside a function transform, or None outside of one."""
    if torch_private.in_function_transform():
        return "torch.func does not see through its operators"
    return None


def tokens(t: Tensor) -> tuple[int, int, int]:
    """``ht_tokens`` of ``t`` (B, N, D): address, stride of images, stride of tokens."""
    batch_stride, token_stride, _ = t.stride()
    return t.data_ptr(), batch_stride, token_stride
