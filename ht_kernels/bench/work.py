"""The arithmetic and the memory traffic of an adapter call, stage by stage, from its sizes alone.

Stages have the names of the compiled core's (``HT_ADAPTER_STAGES`` in csrc/include/ht_kernels.h). A multiply-add counts
as two operations. Counted are matrix products, convolutions, Fourier transforms and what the noise estimator does;
left out are LayerNorm, GELU, biases and residuals. Bytes are the tokens of width D and C that a stage has to read and
write, as the comment at the head of its file in csrc/cpu says; what stays in the first-level cache between two stages
is left out, and so are weights, which all tokens share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ht_kernels.folding import KERNEL_SIZE

TAPS = KERNEL_SIZE**2


class Work(NamedTuple):
    """Floating-point operations, and bytes read plus written."""

    operations: int
    bytes: int


@dataclass(frozen=True)
class Sizes:
    """The sizes of a call, with the letters of docs/kernels.md.

    Attributes:
        batch: B images.
        tokens: N tokens of an image, prefix tokens and the patches of ``grid``.
        dim: D, the width of a token.
        bottleneck: C.
        grid: (H, W).
        hidden: Q, the hidden width of the noise estimator; 0 without one.
        scales: S convolutions that are kept apart, 1 or 3.
        spectral: whether there is a spectral filter.
        itemsize: s, bytes of a number in a token.
        h_itemsize: bytes of a number in the bottleneck: 4 on the CPU whatever the tokens are, s on a GPU.
    """

    batch: int
    tokens: int
    dim: int
    bottleneck: int
    grid: tuple[int, int]
    hidden: int
    scales: int
    spectral: bool
    itemsize: int
    h_itemsize: int = 4

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]


def forward_stages(n: Sizes) -> dict[str, Work]:
    """The work of each stage of a forward pass."""
    tokens, patches, c = n.batch * n.tokens, n.batch * n.patches, n.bottleneck
    stages = {
        # csrc/cpu/down_project.h: reads x, writes h.
        "down": Work(2 * tokens * n.dim * c, tokens * (n.dim * n.itemsize + c * n.h_itemsize)),
        # csrc/cpu/scale_weights.h and depthwise.h: the mean of h, the estimator, and the kernel of every image.
        "noise": Work(_noise_operations(n), patches * c * n.h_itemsize if n.scales > 1 else 0),
        # csrc/cpu/mix_and_up_project.h: mix reads h; up reads x and writes out.
        "mix": Work(2 * patches * c * (TAPS + c), tokens * c * n.h_itemsize),
        "up": Work(2 * tokens * n.dim * c, 2 * tokens * n.dim * n.itemsize),
    }
    if n.spectral:
        # csrc/cpu/spectral_filter.h: reads S, writes F; a transform, the mask, and the inverse.
        stages["filter"] = Work(2 * _transform(n) + 6 * _frequencies(n), 2 * patches * c * n.h_itemsize)
    return stages


def backward_stages(n: Sizes) -> dict[str, Work]:
    """The work of each stage of a backward pass, in which the bottleneck is computed again from h."""
    tokens, patches, c = n.batch * n.tokens, n.batch * n.patches, n.bottleneck
    h_bytes = tokens * c * n.h_itemsize
    # Of every image's kernel: its share in the gradient of each scale's, and the gradient of the scale's weight.
    kernels = n.batch * n.scales * 2 * (TAPS + 1) * c * (2 if n.scales > 1 else 1)
    estimator = n.batch * n.hidden * 4 * (c + n.scales)
    stages = {
        # csrc/cpu/down_project.h: reads x and grad_out, writes grad_x; du, and the gradient of down_weight.
        "down": Work(4 * tokens * n.dim * c, 3 * tokens * n.dim * n.itemsize),
        "noise": Work(_noise_operations(n) + kernels + estimator, patches * c * n.h_itemsize if n.scales > 1 else 0),
        # csrc/cpu/mix_and_up_project.h, mix: the convolution and the projector again; the gradients of the projector's
        # input and weight; those of the convolution's. Reads h, and leaves dy and dm for the second sweep.
        "mix": Work(2 * patches * c * (3 * TAPS + 3 * c), 3 * h_bytes),
        # up: dm, and the gradient of up_weight, from grad_out.
        "up": Work(4 * tokens * n.dim * c, tokens * n.dim * n.itemsize),
    }
    if n.spectral:
        # csrc/cpu/spectral_filter.h: F again; then two transforms, the gradient of the mask, the mask, one inverse.
        stages["filter"] = Work(5 * _transform(n) + 20 * _frequencies(n), 5 * patches * c * n.h_itemsize)
    return stages


def forward(n: Sizes) -> Work:
    """All of a forward pass. It has to read x once and to write out once (docs/kernels.md)."""
    return Work(_operations(forward_stages(n)), 2 * _token_bytes(n))


def backward(n: Sizes) -> Work:
    """All of a backward pass. It has to read x and grad_out, and to write grad_x."""
    return Work(_operations(backward_stages(n)), 3 * _token_bytes(n))


def step(n: Sizes) -> Work:
    """A forward and a backward pass."""
    both = forward(n), backward(n)
    return Work(sum(part.operations for part in both), sum(part.bytes for part in both))


def _operations(stages: dict[str, Work]) -> int:
    return sum(part.operations for part in stages.values())


def _token_bytes(n: Sizes) -> int:
    return n.batch * n.tokens * n.dim * n.itemsize


def _noise_operations(n: Sizes) -> int:
    """The mean of the bottleneck over the patches, the estimator, and the weighted sum of the scales' kernels."""
    estimator = n.patches * n.bottleneck + 2 * n.hidden * (n.bottleneck + n.scales) if n.scales > 1 else 0
    return n.batch * (estimator + (2 * n.scales - 1) * (TAPS + 1) * n.bottleneck)


def _transform(n: Sizes) -> int:
    """One Fourier transform of all channels, or one inverse: H W (W + 2 H) multiply-adds each (csrc/cpu/fourier.h)."""
    height, width = n.grid
    return n.batch * n.bottleneck * 2 * n.patches * (width + 2 * height)


def _frequencies(n: Sizes) -> int:
    """Complex numbers in the spectra of all channels."""
    height, width = n.grid
    return n.batch * n.bottleneck * height * (width // 2 + 1)
