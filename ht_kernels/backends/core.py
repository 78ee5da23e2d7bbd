"""The compiled module ``ht_kernels._C`` for adapters, or the reason why it cannot be used."""

from __future__ import annotations

from torch import Tensor

from ht_kernels import compiled
from ht_kernels.folding import FoldedAdapter

from . import fork, torch_private

__all__ = ["missing", "module", "tokens", "transforms_reason"]

missing = compiled.missing
"""The reason why the compiled module cannot be used; empty if it can."""
if not missing:
    module = compiled.module
    fork.prepare()
    if module.adapter_weights() != list(FoldedAdapter._fields):
        missing = (
            "the compiled core ht_kernels._C was built for other folded weights than this package has: "
            f"{', '.join(module.adapter_weights())}; install the package again"
        )


def transforms_reason() -> str | None:
    """The reason why compiled backends cannot run inside a torch.func transform, or None outside of a transform."""
    if torch_private.in_function_transform():
        return "torch.func does not see through its operators"
    return None


def tokens(t: Tensor) -> tuple[int, int, int]:
    """The ``ht_tokens`` of ``t`` (B, N, D): its address, its batch stride and its token stride, in elements."""
    batch_stride, token_stride, _ = t.stride()
    return t.data_ptr(), batch_stride, token_stride
