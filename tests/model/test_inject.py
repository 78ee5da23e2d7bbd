"""Adapters in a frozen tower: names, effect, freezing, copies, compilation."""

import copy
import io

import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import nn

from helpers.small_towers import DEPTH, DIM, IMAGE, TOWERS, Clip, shake, small_tower
from ht_kernels import HTAdapter, inject
from ht_kernels.clip.mona import BatchFirstMona, SequenceFirstMona
from ht_kernels.clip.towers import find_tower
from ht_kernels.errors import InputError
from ht_kernels.published import VARIANTS

pytestmark = pytest.mark.usefixtures("one_thread")
PREFIX = {
    "open_clip": "visual.transformer.resblocks.{}.mona.clip_mona.",
    "timm": "visual.trunk.blocks.{}.mona.clip_mona.",
    "openai": "visual.transformer.resblocks.{}.mona.",
}
SHARED = {"norm.weight", "norm.bias", "gamma", "gammax"} | {
    f"{part}.{kind}"
    for part in ("project1", "project2", *(f"adapter_conv.{p}" for p in ("conv1", "conv2", "conv3", "projector")))
    for kind in ("weight", "bias")
}
NOISE = {f"adapter_conv.noise_estimator.{i}.{kind}" for i in (1, 3) for kind in ("weight", "bias")}
FREQUENCY = {"adapter_conv.freq_filter"}
NAMES = {
    "baseline": SHARED,
    "noise_aware": SHARED | NOISE,
    "freq_enhanced": SHARED | FREQUENCY,
    "hybrid": SHARED | NOISE | FREQUENCY,
}


@pytest.fixture(params=TOWERS)
def tower_name(request):
    return request.param


def images(batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, IMAGE, IMAGE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_names_are_the_published_ones(tower_name, variant):
    model = small_tower(tower_name)
    before = set(model.state_dict())
    assert inject(model, variant, bottleneck=8) is model
    expected = {PREFIX[tower_name].format(i) + name for i in range(DEPTH) for name in NAMES[variant]}
    assert set(model.state_dict()) - before == expected
    assert {name for name, p in model.named_parameters() if p.requires_grad} == expected


def test_encode_image_equals_blocks_followed_by_published_adapters(tower_name):
    model = small_tower(tower_name).eval()
    plain = copy.deepcopy(model)
    inject(model, bottleneck=8)
    tower, plain_tower = find_tower(model), find_tower(plain)
    for ours, block in zip(tower.blocks, plain_tower.blocks, strict=True):
        shake(ours.mona)
        published = VARIANTS["hybrid"](DIM, 8).double().eval()
        published.load_state_dict(getattr(ours.mona, "clip_mona", ours.mona).state_dict())
        block.published = published
        block.forward = published_forward(block, block.forward, tower.batch_first)
    with torch.no_grad():
        expected, got = plain.encode_image(images()), model.encode_image(images())
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def published_forward(block, original, batch_first):
    def forward(x, **arguments):
        x = original(x, **arguments)
        if batch_first:
            return block.published(x, (4, 4))
        return block.published(x.transpose(0, 1), (4, 4)).transpose(0, 1)

    return forward


@pytest.mark.parametrize(("layers", "expected"), [(None, [0, 1, 2, 3]), (2, [0, 1]), ([3, 1], [1, 3]), (0, [])])
def test_layers(layers, expected):
    model = inject(small_tower("open_clip"), layers=layers, bottleneck=8)
    assert [i for i, block in enumerate(find_tower(model).blocks) if hasattr(block, "mona")] == expected


@pytest.mark.parametrize("layers", [5, [4], [-1]])
def test_layers_outside_the_tower(layers):
    model = small_tower("open_clip")
    with pytest.raises(ValueError, match="blocks 0 to 3"):
        inject(model, layers=layers)
    assert all(p.requires_grad for p in model.parameters())


def test_second_injection_is_refused():
    model = inject(small_tower("timm"), layers=[1], bottleneck=8)
    with pytest.raises(ValueError, match=r"blocks \[1\] already have an adapter"):
        inject(model)


def test_towers_without_blocks_are_refused():
    resnet = ModifiedResNet([1, 1, 1, 1], output_dim=8, heads=4, image_size=64, width=8)
    with pytest.raises(InputError, match="ModifiedResNet"):
        inject(Clip(resnet))
    with pytest.raises(InputError, match="Linear"):
        inject(nn.Linear(2, 2))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_use_their_own_adapters(tower_name, how):
    model = inject(small_tower(tower_name), bottleneck=8).eval()
    if how == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        twin = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    with torch.no_grad():
        before = model.encode_image(images())
        torch.testing.assert_close(twin.encode_image(images()), before, rtol=0, atol=0)
        find_tower(twin).blocks[0].apply(shake)
        assert not torch.allclose(twin.encode_image(images()), before)
        torch.testing.assert_close(model.encode_image(images()), before, rtol=0, atol=0)


def test_compiles_without_graph_breaks(tower_name):
    torch.compiler.reset()
    model = inject(small_tower(tower_name), bottleneck=8).eval()
    compiled = torch.compile(model.encode_image, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images()), model.encode_image(images()), rtol=0, atol=1e-12)


def test_only_adapters_learn(tower_name):
    model = inject(small_tower(tower_name), bottleneck=8)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.encode_image(images()).square().mean().backward()
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all("mona" in name for name in changed)
    for i in range(DEPTH):
        assert PREFIX[tower_name].format(i) + "project2.weight" in changed


def test_half_precision_tower_keeps_float32_adapters():
    model = inject(small_tower("openai").bfloat16(), bottleneck=8).eval()
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    with torch.no_grad():
        assert model.encode_image(images().bfloat16()).dtype == torch.bfloat16


def tokens(count: int) -> torch.Tensor:
    return torch.randn(2, count, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def adapter() -> HTAdapter:
    return shake(HTAdapter(16, 8).double().eval())


def test_batch_first_form(adapter):
    x = tokens(13)
    expected = adapter(x, (3, 4), 1)
    torch.testing.assert_close(BatchFirstMona(adapter)(x, hw_shapes=(3, 4)), expected)
    torch.testing.assert_close(BatchFirstMona(adapter, grid=(3, 4))(x), expected)
    torch.testing.assert_close(BatchFirstMona(adapter, grid=(2, 2))(x, (3, 4)), expected)
    torch.testing.assert_close(BatchFirstMona(adapter, grid=(3, 3), prefix_tokens=4)(x), adapter(x, (3, 3), 4))
    square = tokens(9)
    torch.testing.assert_close(BatchFirstMona(adapter)(square), adapter(square, (3, 3), 0))


def test_sequence_first_form(adapter):
    mona = SequenceFirstMona(16, 8, grid=(3, 4)).double().eval()
    mona.load_state_dict(adapter.state_dict())
    x = tokens(13)
    sequence = x.transpose(0, 1).contiguous()
    expected = adapter(x, (3, 4), 1).transpose(0, 1)
    torch.testing.assert_close(mona(sequence), expected)
    torch.testing.assert_close(mona(sequence, (3, 4)), expected)
    square = tokens(9)
    torch.testing.assert_close(
        SequenceFirstMona.forward(mona, square.transpose(0, 1), (2, 4)), adapter(square, (2, 4)).transpose(0, 1)
    )
