"""The nine identities, each against the computation it replaces, in float64."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ht_kernels as ht
from helpers.adapters import random_adapter, relative_error
from ht_kernels.backends import core
from ht_kernels.folding import (
    add_residual,
    blocks_to_run,
    fold_adapter,
    fold_patch_embedding,
    fold_pyramid,
    image_kernels,
    merge_scales,
    noise_weights,
    on_grid,
    pad_kernel,
    split_norm,
)
from ht_kernels.functional import dynamic_depthwise, feature_pyramid, ht_adapter
from ht_kernels.nn import HTAdapter, SegmentationHead, pyramid
from ht_kernels.ops.fold import fold_adapter as compiled_fold
from ht_kernels.published import VARIANTS

SOURCE = Path(inspect.getfile(fold_adapter))
sides = st.integers(1, 12)
few = settings(max_examples=25, deadline=None)


def convolve(s: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv2d(s, kernel, bias, padding=kernel.shape[-1] // 2, groups=s.shape[1])


@few
@given(height=sides, width=sides, seed=st.integers(0, 99))
def test_1_the_frequency_filter_is_a_gain(height: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    s, gain = torch.randn(2, 3, height, width).double(), torch.randn(3).double()
    filtered = torch.fft.irfft2(gain.view(1, 3, 1, 1) * torch.fft.rfft2(s), s=(height, width))
    kernel = torch.randn(3, 1, 7, 7).double()
    # merge_scales adds the residual of S; without it the gain is all that is left of the filter.
    merged = merge_scales([kernel], gain)[0].unsqueeze(1)
    torch.testing.assert_close(convolve(s, merged), convolve(filtered, kernel) + s, rtol=0, atol=1e-11)


@few
@given(height=sides, width=sides, seed=st.integers(0, 99))
def test_2_three_convolutions_are_one(height: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    channels = 4
    s = torch.randn(3, channels, height, width).double()
    kernels = [torch.randn(channels, 1, k, k).double() for k in (3, 5, 7)]
    biases, weights = torch.randn(3, channels).double(), torch.randn(3, 3).double().softmax(-1)
    expected = s.clone()
    for i, kernel in enumerate(kernels):
        expected += weights[:, i].view(-1, 1, 1, 1) * convolve(s, kernel, biases[i])
    merged = torch.einsum("bs,schw->bchw", weights, merge_scales(kernels, None))
    torch.testing.assert_close(dynamic_depthwise(s, merged, weights @ biases), expected, rtol=0, atol=1e-11)


def test_2_kernels_are_padded_around_their_centre() -> None:
    padded = pad_kernel(torch.ones(1, 1, 3, 3))
    assert padded.shape == (1, 7, 7) and padded.sum() == 9 and padded[0, 2:5, 2:5].sum() == 9


@few
@given(height=sides, width=sides, seed=st.integers(0, 99))
def test_3_noise_weights_need_only_pooled_values(height: int, width: int, seed: int) -> None:
    adapter = random_adapter("hybrid", 8, 12, seed)
    s = torch.randn(2, 12, height, width).double()
    gain = adapter.adapter_conv.freq_filter.view(1, -1, 1, 1)
    filtered = torch.fft.irfft2(gain * torch.fft.rfft2(s), s=(height, width))
    expected = adapter.adapter_conv.noise_estimator(filtered).flatten(1)
    got = noise_weights(fold_adapter(adapter), s.mean((2, 3)))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_4_projector_and_residual_are_one_matrix() -> None:
    torch.manual_seed(0)
    projector, y = nn.Conv2d(6, 6, 1).double(), torch.randn(2, 6, 4, 5).double()
    weight = add_residual(projector.weight.flatten(1))
    got = torch.einsum("oc,bchw->bohw", weight, y) + projector.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(got, y + projector(y), rtol=0, atol=1e-12)


@few
@given(dim=st.integers(2, 40), seed=st.integers(0, 99), outlier=st.sampled_from((1, 50)))
def test_5_layer_norm_and_gammas_go_into_project1(dim: int, seed: int, outlier: int) -> None:
    adapter = random_adapter("baseline", dim, 5, seed)
    x = torch.randn(3, 4, dim).double() + 0.5
    x[..., 0] *= outlier
    expected = adapter.project1(adapter.norm(x) * adapter.gamma + x * adapter.gammax)
    folded = fold_adapter(adapter)
    wa, wb, rowsum = split_norm(folded.down_weight, folded.norm_gain, folded.skip_gain)
    mean = x.mean(-1, keepdim=True)
    rstd = (x.var(-1, correction=0, keepdim=True) + adapter.norm.eps).rsqrt()
    got = rstd * (x @ wa.T - mean * rowsum) + x @ wb.T + folded.down_bias
    assert relative_error(got, expected) < 1e-11


def test_6_blocks_that_nothing_reads_are_not_run() -> None:
    assert blocks_to_run((3, 6, 9)) == 10 and blocks_to_run([0]) == 1


def _levels() -> tuple[nn.ModuleList, nn.ModuleList, list[Tensor]]:
    torch.manual_seed(0)
    reduces, blocks = pyramid(10, 16, 3)
    with torch.no_grad():
        for parameter in (*reduces.parameters(), *blocks.parameters()):
            parameter.add_(0.3 * torch.randn_like(parameter))
    return reduces.double(), blocks.double(), [torch.randn(2, 12, 10).double() for _ in range(3)]


def _published_sum(reduces: nn.ModuleList, blocks: nn.ModuleList, features: list[Tensor]) -> Tensor:
    return sum(
        (block(reduce(x)) for reduce, block, x in zip(reduces, blocks, features, strict=True)), torch.zeros(1).double()
    )


def test_7_the_1x1_convolution_commutes_with_upsampling() -> None:
    reduces, blocks, features = _levels()
    head = SegmentationHead(16, 3).double()
    image = _published_sum(reduces, blocks, features).transpose(1, 2).reshape(2, 16, 3, 4)
    expected = head[1](F.interpolate(image, (21, 30), mode="bilinear", align_corners=False))
    scores = feature_pyramid(features, *fold_pyramid(reduces, blocks, head.weight, head.bias))
    torch.testing.assert_close(head(scores, (3, 4), (21, 30)), expected, rtol=0, atol=1e-11)


def test_8_last_linear_and_head_are_one_matrix_and_the_mean_comes_first() -> None:
    reduces, blocks, features = _levels()
    total = _published_sum(reduces, blocks, features)
    weight, bias = torch.randn(4, 16).double(), torch.randn(4).double()
    levels, folded_bias = fold_pyramid(reduces, blocks, weight, bias)
    assert [tuple(level.last_weight.shape) for level in levels] == [(4, 16)] * 3
    got = feature_pyramid(features, levels, folded_bias)
    torch.testing.assert_close(got, F.linear(total, weight, bias), rtol=0, atol=1e-11)
    pooled = feature_pyramid(features, *fold_pyramid(reduces, blocks, None, None), pool=True)
    torch.testing.assert_close(pooled, total.mean(1), rtol=0, atol=1e-11)


@pytest.mark.parametrize("with_bias", [True, False])
def test_9_gray_pixels_enter_the_patch_embedding_directly(with_bias: bool) -> None:
    torch.manual_seed(0)
    embedding = nn.Conv2d(3, 8, 4, 4, bias=with_bias).double()
    gray = torch.randint(0, 256, (2, 1, 8, 12)).double()
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    shift, scale = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (mean, std))
    expected = embedding((gray.expand(-1, 3, -1, -1) / 255 - shift) / scale)
    weight, bias = fold_patch_embedding(embedding.weight, embedding.bias, gray=True, mean=mean, std=std)
    assert weight.shape == (8, 1, 4, 4)
    torch.testing.assert_close(F.conv2d(gray, weight, bias, stride=4), expected, rtol=0, atol=1e-12)
    weight, bias = fold_patch_embedding(embedding.weight, embedding.bias, gray=False)
    color = torch.randint(0, 256, (2, 3, 8, 12)).double()
    torch.testing.assert_close(F.conv2d(color, weight, bias, stride=4), embedding(color / 255), rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_together_with_gradients_of_the_raw_parameters(variant: str) -> None:
    adapter = random_adapter(variant, 20, 8)
    x = torch.randn(2, 1 + 4 * 6, 20).double()
    grad = torch.randn_like(x)
    results = {}
    for way in ("published", "folded"):
        adapter.zero_grad()
        leaf = x.clone().requires_grad_()
        folded = fold_adapter(adapter)
        out = adapter(leaf, (4, 6)) if way == "published" else ht_adapter(leaf, folded, (4, 6), backend="reference")
        out.backward(grad)
        results[way] = [out, leaf.grad, *(p.grad for p in adapter.parameters())]
    for got, expected in zip(results["folded"], results["published"], strict=True):
        assert relative_error(got, expected) < 1e-10


def test_low_precision_is_folded_in_float32() -> None:
    folded = fold_adapter(random_adapter("hybrid", 20, 8).bfloat16())
    assert {t.dtype for t in folded if t is not None} == {torch.float32}
    exact = fold_adapter(random_adapter("hybrid", 20, 8).bfloat16().double())
    for got, expected in zip(folded, exact, strict=True):
        if got is not None and expected is not None:
            assert relative_error(got, expected) < 1e-6


def test_image_kernels_without_noise_estimation_are_one_kernel() -> None:
    folded = fold_adapter(random_adapter("freq_enhanced", 20, 8))
    weights = noise_weights(folded, torch.randn(3, 8).double())
    kernels, bias = image_kernels(folded, weights)
    assert weights.shape == (3, 1) and kernels.shape == (3, 8, 7, 7) and bias.shape == (3, 8)
    torch.testing.assert_close(kernels[2], folded.scale_kernels[0])


def test_imports_nothing_but_torch() -> None:
    lines = [line for line in SOURCE.read_text().splitlines() if line.startswith(("import ", "from "))]
    names = {line.split()[1].split(".")[0] for line in lines}
    assert names == {"__future__", "collections", "typing", "torch"}


def float32_adapter(variant: str, dim: int, bottleneck: int) -> HTAdapter:
    adapter = HTAdapter(dim, bottleneck, variant)
    adapter.load_state_dict(random_adapter(variant, dim, bottleneck).state_dict())
    return adapter


@pytest.mark.parametrize("spectral", [None, "full", "shared", "radial"])
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_the_compiled_fold_is_that_of_torch(variant: str, spectral: str | None) -> None:
    """Weights, gradients and second derivatives; sizes that fill no vector, and frozen parameters."""
    if spectral is not None and variant not in ("freq_enhanced", "hybrid"):
        pytest.skip("no filter")
    adapter = float32_adapter(variant, dim=37, bottleneck=5)
    if spectral is not None:
        adapter.to_spectral(spectral, (3, 4))
    adapter.norm.bias.requires_grad_(False)
    parameters = [p for p in adapter.parameters() if p.requires_grad]
    found: dict[str, list[Tensor]] = {}
    for name, fold in (("torch", fold_adapter), ("core", compiled_fold)):
        folded = [t for t in fold(adapter) if t is not None]
        torch.manual_seed(1)
        score = sum((torch.randn_like(t) * t.square()).sum() for t in folded if t.requires_grad)
        grads = torch.autograd.grad(score, parameters, create_graph=True)
        plain = torch.autograd.grad(score, parameters, retain_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in grads), parameters)
        found[name] = [*folded, *plain, *grads, *second]
    for expected, result in zip(found["torch"], found["core"], strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_the_compiled_fold_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """For gradients in float32 on the CPU; in other cases torch folds."""
    calls = []
    real = core.module.fold
    monkeypatch.setattr(core.module, "fold", lambda *arguments: calls.append(real(*arguments)))
    adapter = float32_adapter("hybrid", dim=16, bottleneck=4)
    compiled_fold(adapter)
    assert len(calls) == 1
    compiled_fold(float32_adapter("hybrid", dim=16, bottleneck=4).double())
    with torch.no_grad():
        compiled_fold(adapter)
    adapter.project1.weight.data = torch.randn(16, 4).t()
    compiled_fold(adapter)
    assert len(calls) == 1


def test_weights_that_depend_on_each_other_get_their_gradients_once() -> None:
    """With and without a graph for second derivatives."""
    for create_graph in (False, True):
        adapter = float32_adapter("hybrid", dim=16, bottleneck=4)
        conv = adapter.adapter_conv
        conv.conv1.bias = conv.conv2.bias = conv.conv3.bias
        del adapter.norm._parameters["weight"]
        adapter.norm.weight = 2 * adapter.gamma
        shared = [conv.conv3.bias, adapter.gamma]
        found = []
        for fold in (fold_adapter, compiled_fold):
            score = sum(t.square().sum() for t in fold(adapter) if t is not None)
            found.append(torch.autograd.grad(score, shared, create_graph=create_graph, retain_graph=True))
        for expected, result in zip(*found, strict=True):
            torch.testing.assert_close(result, expected)


def test_a_backend_asked_for_by_name_folds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.module, "fold", lambda *_: pytest.fail("the core folded"))
    ht.set_backend("reference")
    try:
        compiled_fold(float32_adapter("hybrid", dim=16, bottleneck=4))
    finally:
        ht.set_backend(None)


@pytest.mark.parametrize("spectral", [None, "radial"])
def test_autocast_does_not_round_folded_weights(spectral: str | None) -> None:
    adapter = float32_adapter("hybrid", dim=16, bottleneck=4)
    if spectral is not None:
        adapter.to_spectral(spectral)
    with torch.no_grad():
        expected = on_grid(fold_adapter(adapter), (3, 4))
        with torch.autocast("cpu", torch.bfloat16):
            found = on_grid(fold_adapter(adapter), (3, 4))
    for before, after in zip(expected, found, strict=True):
        if before is not None and after is not None:
            torch.testing.assert_close(after, before, rtol=0, atol=0)
