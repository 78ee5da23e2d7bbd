"""accelerate in the towers of the paper's other rows: DINOv2's and CLIPSeg's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import ht_kernels as ht
from helpers.clipseg_stand_in import PublishedCLIPSeg, TransformersTower
from helpers.published_stand_in import SequenceFirstAdapter, TaskModel, Wrapper, _replaced
from helpers.small_towers import DEPTH, DIM, Clip, DinoVisionTransformer, shake, timm_tower
from ht_kernels.clip.published_checkpoint import to_published
from ht_kernels.clip.towers import find_tower
from ht_kernels.errors import InputError
from ht_kernels.nn import HTAdapter
from ht_kernels.train import prepare

pytestmark = pytest.mark.usefixtures("one_thread")


class DinoTask(TaskModel):
    """A published task model whose tower is a DINOv2, in timm's form or that of its own code."""

    def forward(self, images: Tensor) -> Tensor:
        visual, found = self.clip_model.visual, []
        x = (
            visual.prepare_tokens_with_masks(images)
            if isinstance(visual, DinoVisionTransformer)
            else visual._pos_embed(visual.patch_embed(images))
        )
        prefix = x.shape[1] - 16
        for i, block in enumerate(find_tower(visual).blocks):
            x = block(x)
            if i in self.extract_layers:
                found.append(x[:, prefix:])
        levels = [block(reduce(x)) for x, reduce, block in zip(found, self.reduces, self.blocks, strict=True)]
        return getattr(self, self.head)(sum(levels).transpose(1, 2).unflatten(2, (4, 4)))


TOWERS = {
    "own code": DinoVisionTransformer,
    "own code, chunks": lambda: DinoVisionTransformer(chunks=2),
    "timm": lambda: timm_tower(init_values=0.5),
}


def adapted(tower: nn.Module) -> nn.Module:
    for block in find_tower(tower).blocks:
        block.mona = Wrapper(SequenceFirstAdapter(DIM, 8))
        block.forward = _replaced(block, block.forward)
    return shake(tower)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("name", TOWERS)
def test_a_task_model_around_a_dinov2(name: str, task: str) -> None:
    torch.manual_seed(0)
    model = DinoTask(Clip(adapted(TOWERS[name]())), task, (0, 1, 2), classes=2, width=12).eval()
    images, names = torch.rand(2, 3, 64, 64), list(model.state_dict())
    with torch.no_grad():
        expected = model(images)
        report = ht.accelerate(model)
        assert (len(report.swapped), report.left) == (DEPTH, ()) and report.whole[0][1:] == (task, 3, DEPTH)
        torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-4)
        duplicate = copy.deepcopy(model)
        for adapter in (module for module in model.modules() if isinstance(module, HTAdapter)):
            adapter.project2.bias.add_(1)
        assert not torch.allclose(model(images), expected, rtol=0, atol=1e-2)
        torch.testing.assert_close(duplicate(images), expected, rtol=0, atol=1e-4)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("name", ["own code", "timm"])
def test_hooks_on_a_block_of_a_dinov2_that_is_read_fire_in_the_fast_way(name: str) -> None:
    torch.manual_seed(0)
    model = DinoTask(Clip(adapted(TOWERS[name]())), "segmentation", (0, 1, 2), classes=2, width=12).eval()
    ht.accelerate(model)
    calls: list[int] = []
    for i, block in enumerate(find_tower(model.clip_model).blocks[:3]):
        block.register_forward_hook(lambda *_, i=i: calls.append(i))
    last = model.clip_model.visual.blocks[-1]
    with torch.no_grad():
        model(torch.rand(1, 3, 64, 64))
        assert calls == [0, 1, 2]
        last.norm1.register_forward_hook(lambda *_: calls.append(9))
        model(torch.rand(1, 3, 64, 64))
    assert calls == [0, 1, 2, 0, 1, 2, 9]


def test_a_dinov2_of_its_own_code_is_saved_and_loaded_but_not_as_a_published_one(tmp_path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    tower = shake(DinoVisionTransformer(chunks=2, registers=3))
    fresh = copy.deepcopy(tower)
    options = {"feature_layers": (0, 2), "reduce_dim": 16, "bottleneck": 8}
    model = shake(ht.HTCLIP(tower, **options)).eval()
    fresh.load_state_dict({k: v for k, v in tower.state_dict().items() if ".mona." not in k})
    model.save(tmp_path / "model.safetensors")
    again = ht.HTCLIP.from_checkpoint(tmp_path / "model.safetensors", backbone=fresh).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(images), model(images), rtol=0, atol=0)
    with pytest.raises(InputError, match="no adapters into a tower of DINOv2's own code"):
        to_published(model)


def test_published_clipseg_runs_on_the_kernels() -> None:
    """Its decoder is no pyramid with a head, so it stays; blocks behind the last one that is read are run too."""
    torch.manual_seed(0)
    model = PublishedCLIPSeg().eval()
    images, text = torch.rand(2, 3, 64, 64), torch.randn(2, 8)
    with torch.no_grad():
        expected = model(images, text)
        report = ht.accelerate(model)
        assert (len(report.swapped), report.left, report.whole) == (DEPTH, (), ())
        torch.testing.assert_close(model(images, text), expected, rtol=0, atol=1e-4)
        duplicate = copy.deepcopy(model)
        model.clip_model.visual.transformer.resblocks[0].mona.project2.bias.add_(1)
        torch.testing.assert_close(duplicate(images, text), expected, rtol=0, atol=1e-4)
    model.train()(images, text).square().sum().backward()
    adapters = [module for module in model.modules() if isinstance(module, HTAdapter)]
    assert adapters[0].project1.weight.grad is not None


@pytest.mark.parametrize("as_tuple", [False, True])
def test_adapters_in_transformers_tower(as_tuple: bool) -> None:
    """They run on the kernels; the report says that the replaced forwards stay."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"vision_model": TransformersTower(as_tuple)}).eval()
    tower, images = model["vision_model"], torch.rand(2, 3, 64, 64)
    names = list(model.state_dict())
    with torch.no_grad():
        expected = tower(images)
        report = ht.accelerate(model)
        torch.testing.assert_close(tower(images), expected, rtol=1e-4, atol=1e-4)
    assert [s.name for s in report.swapped] == [f"vision_model.encoder.layers.{i}.mona.clip_mona" for i in range(DEPTH)]
    assert [each.name for each in report.left] == [f"vision_model.encoder.layers.{i}" for i in range(DEPTH)]
    assert "copies of it go on calling the adapter of this one" in str(report)
    assert list(model.state_dict()) == names


def test_full_tuning_of_a_dinov2_trains_what_is_run() -> None:
    """A weight without a gradient, such as the token for masked patches, would stop several processes."""
    model = ht.HTCLIP(shake(DinoVisionTransformer()), feature_layers=(0, 2), reduce_dim=16, adapter_layers=())
    prepare(model, "full")
    model(torch.rand(1, 3, 64, 64)).square().sum().backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert "clip_model.cls_token" in trained and [name for name, grad in trained.items() if grad is None] == []


def test_a_tower_in_chunks_is_reported_once() -> None:
    """A CLIP model and its vision part both have the tower, whose list of blocks is made anew each time."""
    model = Clip(adapted(DinoVisionTransformer(chunks=2)))
    left = ht.accelerate(copy.deepcopy(model)).left  # in a copy, every forward calls the adapter of the original
    assert len(left) == DEPTH and all("as in a copy" in each.reason for each in left)
