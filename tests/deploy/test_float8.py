"""FP8: the products of blocks, their scales, the gate, and what they run in. On the CPU, by torch's own operator."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

import ht_kernels as ht
from helpers.cuda_stand_in import stand_in, to_gpu
from helpers.exports import calibrated_model, folded_model, some_frames
from helpers.small_models import calibrated, gray_frames, small_model
from helpers.small_towers import shake, timm_tower
from ht_kernels.deploy import FoldedHTCLIP, GraphRunner, Session, check_folded, float8, quantize_fp8, torch_compile
from ht_kernels.deploy.calibration import LEAST
from ht_kernels.deploy.float8 import FP8, HEADROOM, LARGEST, PRODUCTS, Float8Product, why_not_float8
from ht_kernels.deploy.gate import THRESHOLDS
from ht_kernels.errors import BackendError, InputError

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(why_not_float8(CPU) is not None, reason="this torch computes no FP8 on the CPU"),
]
LOOSE = dataclasses.replace(THRESHOLDS["fp8"], agreement=0.9, dice=0.9)
"""For a model with random weights, whose classes are closer to each other than those of a trained one."""


def model_in_fp8(folded: FoldedHTCLIP, dtype: torch.dtype = torch.bfloat16) -> tuple[FoldedHTCLIP, Tensor]:
    """A model in FP8, and frames that it was not calibrated on."""
    frames = some_frames(folded, LEAST + 3)
    return quantize_fp8(folded, frames[:LEAST], dtype), frames[LEAST:]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_product(dtype: torch.dtype) -> None:
    """By its formula in float64. Values beyond the scale are cut off, and not a number stays so."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(5, 32, generator=generator), torch.randn(48, 32, generator=generator)
    bias = torch.randn(48, generator=generator)
    x[2, 3], x[3, 4] = 1e4, torch.nan
    largest = float(x[:2].abs().max())
    product, x = Float8Product(weight, bias, largest, dtype), x.to(dtype)
    scale = float(product.scale)
    assert product.scale.log2() % 1 == 0 and LARGEST / 2 < HEADROOM * largest / scale <= LARGEST
    rounded = (x.double() / scale).clamp(-LARGEST, LARGEST).to(FP8).double() * scale
    matrix = product.weight.double() * float(product.weight_scale)
    assert (matrix - weight).norm() < 0.04 * weight.norm()
    got = product(x)
    assert got.dtype == dtype
    expected = (rounded @ matrix.t() + bias.to(dtype)).to(dtype)
    assert bool(got[3].isnan().all())
    kept = [0, 1, 2, 4]
    torch.testing.assert_close(got[kept], expected[kept], rtol=2 * torch.finfo(dtype).eps, atol=1e-2)


def test_small_channels_beside_an_outlier() -> None:
    """Channels a thousand times smaller than one that the matrix leaves out are as exact as without it."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(64, 32, generator=generator), torch.randn(48, 32, generator=generator)
    x[:, 0], weight[:, 0] = 1e3, 0
    got = Float8Product(weight, None, float(x.abs().max()), torch.float16)(x.half())
    assert (got - x @ weight.t()).norm() < 0.05 * (x @ weight.t()).norm()


def test_the_model() -> None:
    """All products of blocks are in FP8, the rest is that of a model in bfloat16, and the given model stays."""
    folded = folded_model("timm")
    before = {name: tensor.clone() for name, tensor in folded.named_buffers()}
    model, frames = model_in_fp8(folded)
    assert (folded.precision, model.precision, len(model.calibrated_on)) == ("fp32", "fp8", LEAST)
    for block in model.blocks:
        assert tuple(block.scaled) == PRODUCTS
        assert all(product.weight.dtype == FP8 for product in block.scaled.values())
    rest = {name: tensor.dtype for name, tensor in model.named_buffers() if ".scaled." not in name}
    bfloat16 = ht.fold(small_model("timm").float(), torch.bfloat16)
    replaced = {f"blocks.{i}.{name}_{part}" for i in range(3) for name in PRODUCTS for part in ("weight", "bias")}
    assert rest == {name: tensor.dtype for name, tensor in bfloat16.named_buffers() if name not in replaced}
    after = dict(folded.named_buffers())
    assert before.keys() == after.keys() and all(torch.equal(after[name], tensor) for name, tensor in before.items())
    got = model(frames)
    assert got.dtype == torch.float32
    for again in (copy.deepcopy(model), Session.open(model, runtime="cpu", batch=3)):
        assert torch.equal(again(frames), got)


@pytest.mark.parametrize("tower", ["open_clip", "timm, SwiGLU"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_gate(tower: str, dtype: torch.dtype) -> None:
    folded = folded_model(tower)
    model, frames = model_in_fp8(folded, dtype)
    report = check_folded(folded, model, frames, LOOSE)
    assert (report.precision, report.runtime, report.sha256) == ("fp8", "torch", None)
    assert report.passed and (report.frames, report.calibration_frames) == (3, LEAST)
    assert report.relative_error is not None and report.relative_error > 1e-3
    with pytest.raises(InputError, match="1 of the 4 frames to check on were calibrated with"):
        check_folded(folded, model, torch.cat([frames, some_frames(folded, 2)[1:]]), LOOSE)


@pytest.mark.parametrize("task", ["classification", "contrastive"])
def test_other_tasks(task: str) -> None:
    if task == "contrastive":
        pytest.importorskip("open_clip")
        from helpers.small_towers import small_clip

        folded = ht.fold(ht.HTCLIP(small_clip(), task=task, bottleneck=8).float().eval())
        frames = some_frames(folded, LEAST + 3, channels=3)
    else:
        folded = folded_model("timm", task)
        frames = some_frames(folded, LEAST + 3)
    model = quantize_fp8(folded, frames[:LEAST])
    report = check_folded(folded, model, frames[LEAST:], dataclasses.replace(LOOSE, agreement=0.5))
    assert report.cosine is not None and report.cosine > 0.99 and report.dice_mean is None


def test_the_gate_names_a_block_that_is_wrong() -> None:
    folded = folded_model("timm")
    model, frames = model_in_fp8(folded)
    model.blocks[1].scaled["last"].weight_scale *= 4
    with pytest.raises(InputError, match=r"in fp8 .* cosine similarity is .*arises in blocks\.1\. .* on 8 frames"):
        check_folded(folded, model, frames, LOOSE)
    model, _ = model_in_fp8(folded)
    model.pyramid_bias *= 100
    with pytest.raises(InputError, match="arises behind the blocks, in the head"):
        check_folded(folded, model, frames, LOOSE)


def test_the_gate_takes_16_bits_and_refuses_another_model() -> None:
    model = small_model("timm").float()
    folded, frames = ht.fold(model), gray_frames(model)
    assert check_folded(folded, ht.fold(model, torch.bfloat16), frames, LOOSE).precision == "bf16"
    with pytest.raises(InputError, match="differ in more than their precision"):
        check_folded(folded, folded_model("timm", "classification"), frames)
    with pytest.raises(TypeError, match="expected a model folded in float32"):
        check_folded(ht.fold(model, torch.bfloat16), folded, frames)


def test_distances() -> None:
    """On average over the frames calibrated on, features are as far from those of the training images as in float32."""
    folded = calibrated_model("timm")
    model, frames = model_in_fp8(folded)
    known = some_frames(folded, LEAST)
    centred = [float8._features(one, known) - one.familiarity.mean for one in (folded, model)]
    torch.testing.assert_close(*centred, rtol=0, atol=1e-5)
    assert not torch.equal(model.familiarity.mean, folded.familiarity.mean)
    report = check_folded(folded, model, frames, LOOSE)
    assert report.distance_error is not None and report.distance_error < 0.1


def test_widths_that_fp8_does_not_take(caplog: pytest.LogCaptureFixture) -> None:
    """They stay in 16 bits, and a model of nothing else is refused."""
    torch.manual_seed(0)

    def fold(**options: Any) -> FoldedHTCLIP:
        tower = shake(timm_tower(**options).double())
        sizes = {"num_classes": 3, "bottleneck": 8, "reduce_dim": 16, "feature_layers": (0, 1)}
        return ht.fold(ht.HTCLIP(tower, **sizes).float().eval())

    folded = fold(mlp_layer=narrow)
    model, frames = model_in_fp8(folded)
    assert [tuple(block.scaled) for block in model.blocks] == [("qkv", "out")] * 2
    assert "product last of block 1 stays in 16 bits: its matrix is 32x40, expected multiples of 16" in caplog.text
    assert model.blocks[0].last_weight.dtype == torch.bfloat16
    check_folded(folded, model, frames, dataclasses.replace(LOOSE, agreement=0.5, dice=0.5))
    for block in folded.blocks:
        block.qkv_weight, block.out_weight = block.qkv_weight[:-1], block.out_weight[:-1]
    with pytest.raises(InputError, match="no product of this model has widths that are multiples of 16"):
        model_in_fp8(folded)


def narrow(in_features: int, hidden_features: int, **options: Any) -> torch.nn.Module:
    from timm.layers import Mlp

    return Mlp(in_features, 40, **options)


@pytest.mark.timeout(300)
def test_torch_compile_makes_one_graph_of_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By inductor's backend for CPUs, as far as torch finds a C++ compiler for it."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch_compile.why_not.cache_clear()
    if torch_compile.why_not(CPU):
        pytest.skip("torch.compile does not work here")
    model, frames = model_in_fp8(ht.fold(calibrated(small_model("timm")).float()))

    def compute(x: Tensor) -> tuple[Tensor, ...]:
        return model.compute(x, model.grid, True)

    with torch.inference_mode():
        found = torch_compile.compiled(compute, frames, torch.bfloat16)
        assert found is not compute
        torch.testing.assert_close(found(255 - frames), compute(255 - frames), rtol=0.1, atol=0.1)


def test_a_cuda_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in for a GPU, which records what is computed, and runs it again on other frames."""
    model, frames = model_in_fp8(folded_model("timm"))
    ht.set_backend("reference")
    try:
        expected = [model(frames), model(255 - frames)]
        cuda = stand_in(monkeypatch)
        runner = GraphRunner(to_gpu(model))
        for result, one in zip(expected, (frames, 255 - frames), strict=True):
            got = runner(one)
            torch.cuda.synchronize()
            assert torch.equal(got, result)
    finally:
        ht.set_backend(None)
    assert cuda.faults == []


def test_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    capability = {"cuda:0": (8, 6), "cuda:1": (8, 9)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability[str(device)])
    why_not = why_not_float8.__wrapped__
    assert why_not(torch.device("cuda:0")) == "its compute capability is 8.6"
    tried: list[str] = []

    def scaled_mm(a: Tensor, *args: Any, **options: Any) -> Tensor:
        tried.append(str(a.device))
        raise NotImplementedError("no kernel")

    monkeypatch.setattr(float8, "scaled_mm", scaled_mm)
    assert why_not(CPU) == "torch computes no FP8 product there (no kernel)" and tried == ["cpu"]
    monkeypatch.setattr(float8, "why_not_float8", lambda device: "its compute capability is 8.6")
    message = r"compute capability 8\.9 or later, and the model is on cpu: its .* is 8\.6\. Move"
    with pytest.raises(BackendError, match=message):
        model_in_fp8(folded_model("timm"))


def test_wrong_arguments() -> None:
    folded = folded_model("timm")
    frames = some_frames(folded, LEAST)
    for arguments, error, message in [
        ((folded, frames[1:]), InputError, "fp8 needs at least 8 frames to calibrate on, .* and there were 7"),
        ((folded, frames / 255), InputError, "must be uint8, got torch.float32"),
        ((folded, frames[..., :-1]), InputError, "frames must have shape"),
        ((folded, frames, torch.float32), TypeError, "must be torch.bfloat16 or torch.float16, got torch.float32"),
        ((ht.fold(small_model("timm")), frames), TypeError, "was folded into torch.float64"),
        ((small_model("timm"), frames), TypeError, r"got HTCLIP: pass ht\.fold\(model\)"),
    ]:
        with pytest.raises(error, match=message):
            quantize_fp8(*arguments)
    folded.blocks[1].out_bias[0] = torch.inf
    with pytest.raises(InputError, match="product hidden of block 1 multiplies values that are not finite"):
        quantize_fp8(folded, frames)


def test_frames_of_another_kind_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    model = calibrated(small_model("timm"))
    known = gray_frames(model, 40)[:LEAST]
    folded = ht.fold(model.float())
    quantize_fp8(folded, known)
    assert "unlike" not in caplog.text
    quantize_fp8(folded, known // 8)
    assert "fp8: 8 of the 8 frames to calibrate on are unlike the training images" in caplog.text
