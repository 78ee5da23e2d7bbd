"""accelerate on whole task models: the same results, gradients and names without what nothing reads."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import ht_kernels as ht
from helpers.adapters import relative_error
from helpers.data_parallel import replicate
from helpers.gpu_random import random_numbers_of_a_gpu
from helpers.published_stand_in import FORMS, TaskModel, _replaced, segmentation_model, task_model
from helpers.small_towers import IMAGE
from ht_kernels.clip.adapted_block import owner
from ht_kernels.clip.task_model import Whole

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES = torch.rand(2, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(3))


def run(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradients of every trained parameter."""
    model.zero_grad()
    out = model(IMAGES)
    out.square().sum().backward()
    return out.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def called(model: nn.Module) -> list[nn.Module]:
    """The modules that a call of a model calls."""
    modules: list[nn.Module] = []
    call = nn.Module.__call__

    def recorded(module: nn.Module, *args: Any, **options: Any) -> Any:
        modules.append(module)
        return call(module, *args, **options)

    with mock.patch.object(nn.Module, "__call__", recorded):  # a hook for all modules would be noticed
        model(IMAGES)
    return modules


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("form", FORMS)
def test_the_same_logits_and_gradients_from_the_same_parameters(form: str, task: str, training: bool) -> None:
    model = task_model(form, task).train(training)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    parameters, keys = list(model.parameters()), list(model.state_dict())
    optimizer = torch.optim.SGD([p for p in parameters if p.requires_grad], 0.01)
    expected, expected_grads = run(model)
    state = torch.random.get_rng_state()
    report = ht.accelerate(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert report.whole == (Whole("", task, 3, 4),) and not report.left and len(report.swapped) == 4
    assert f"the model: {task}, 3 of 4 blocks are run" in str(report)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True)) and list(model.state_dict()) == keys
    assert isinstance(model, TaskModel) and model.training == training

    got, grads = run(model)
    assert got.dtype == expected.dtype and relative_error(got, expected) < 1e-5
    assert grads.keys() == expected_grads.keys()
    total = sum(float(g.norm()) for g in expected_grads.values())
    for key, grad in expected_grads.items():
        assert float((grads[key] - grad).norm()) < 1e-4 * total, key
    optimizer.step()
    with torch.no_grad():
        assert not torch.allclose(model(IMAGES), got)


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["ViT-S-32", "ViT-B-32-quickgelu"])
def test_towers_of_open_clip_at_their_own_size(backbone: str) -> None:
    model = segmentation_model(backbone, width=16).eval()
    for parameter in model.clip_model.visual.transformer.resblocks[2].mona.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.rand(1, 3, 224, 224)
    expected = model(images)
    report = ht.accelerate(model)
    assert len(report.swapped) == 12 and report.whole == (Whole("", "segmentation", 10, 12),) and not report.left
    assert relative_error(model(images), expected) < 1e-5


def test_blocks_that_nothing_reads_are_not_run_and_neither_is_the_wide_upsampling() -> None:
    model = task_model("timm", "segmentation").eval()
    assert not ht.accelerate(model, heads=False).whole and type(model) is TaskModel
    ht.accelerate(model)
    modules = called(model)
    blocks = model.clip_model.visual.trunk.blocks
    assert blocks[2].mlp in modules and blocks[3].mlp not in modules and model.seg_head[0] not in modules


def test_hooks_fire_those_of_the_model_and_those_of_parts_that_are_left_out() -> None:
    model = task_model("open_clip", "segmentation").eval()
    expected = model(IMAGES)
    ht.accelerate(model)
    calls: list[str] = []
    model.register_forward_hook(lambda *_: calls.append("model"))
    model(IMAGES)
    assert calls == ["model"]
    parts: dict[str, Any] = {"reduce": model.reduces[1], "block": model.blocks[0][1], "head": model.seg_head[1]}
    parts |= {"dead": model.clip_model.visual.transformer.resblocks[3].mlp, "norm": model.clip_model.visual.ln_post}
    for name, part in parts.items():
        calls.clear()
        handle = part.register_forward_hook(lambda *_, name=name: calls.append(name))
        got = model(IMAGES)
        handle.remove()
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        # The stand-in, like the published code, leaves the final norm to others.
        assert calls == (["model"] if name == "norm" else [name, "model"])


def test_hooks_for_all_modules_fire_for_parts_that_are_left_out() -> None:
    model = task_model("openai", "segmentation").eval()
    expected = model(IMAGES)
    ht.accelerate(model)
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    got = model(IMAGES)
    report = ht.accelerate(task_model("openai", "segmentation"))
    handle.remove()
    assert not report.whole and not report.swapped and "hooks for all modules" in report.left[0].reason
    assert {*model.reduces, model.seg_head[1], model.clip_model.visual.transformer.resblocks[3].mlp} <= set(seen)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("form", FORMS)
def test_replicas_of_data_parallel(form: str, task: str) -> None:
    model = task_model(form, task).eval()
    expected = model(IMAGES).detach()
    ht.accelerate(model)
    with torch.no_grad():
        model(IMAGES)
        replica = replicate(model, 1)
        assert relative_error(replica(IMAGES), expected) < 1e-5
        twice = replicate(model, 2)
        assert not torch.allclose(twice(IMAGES), expected, atol=1e-3)
        assert relative_error(model(IMAGES), expected) < 1e-5
    replicate(model, 1)(IMAGES).sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "blocks.2.mona" in name)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_and_compiled() -> None:
    torch.compiler.reset()
    model, other = task_model("timm", "segmentation").eval(), torch.rand(2, 3, IMAGE, IMAGE)
    expected, at_other = model(IMAGES), model(other)
    expected.square().sum().backward()
    expected_grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    ht.accelerate(model)
    with torch.no_grad():
        model(IMAGES)
        traced = torch.jit.trace(model, (IMAGES,), check_trace=False)
        assert relative_error(traced(other), at_other) < 1e-5
    model.zero_grad()
    got = torch.compile(model, backend="aot_eager", fullgraph=True)(IMAGES)
    got.square().sum().backward()
    assert relative_error(got, expected) < 1e-5
    total = sum(float(g.norm()) for g in expected_grads.values())
    for name, p in model.named_parameters():
        if p.grad is not None:
            assert float((p.grad - expected_grads[name]).norm()) < 1e-4 * total, name


def test_what_changes_later_is_computed_the_published_way() -> None:
    model = task_model("timm", "segmentation").eval()
    ht.accelerate(model)
    assert model(IMAGES).shape == (2, 2, IMAGE, IMAGE)
    model.task = "classification"
    assert model(IMAGES).shape == (2, 2)
    model.task, model.extract_layers = "segmentation", [1, 2, 3]
    other = task_model("timm", "segmentation").eval()
    other.extract_layers = [1, 2, 3]
    torch.testing.assert_close(model(IMAGES), other(IMAGES), atol=1e-5, rtol=1e-4)
    model.extract_layers = [0, 1, 2]
    model.seg_head[1] = nn.Conv2d(12, 5, 3, padding=1)
    assert model(IMAGES).shape == (2, 5, IMAGE, IMAGE)


@pytest.mark.parametrize("part", ["reduces.0.weight", "project2.weight"])
@pytest.mark.parametrize("form", FORMS)
def test_copies_are_accelerated_and_have_adapters_of_their_own(form: str, part: str) -> None:
    """The published forward of a block is a closure over the block of the original."""
    model = task_model(form, "segmentation").eval()
    ht.accelerate(model)
    expected = model(IMAGES)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is type(model) and torch.equal(twin(IMAGES), expected)
        with torch.no_grad():
            next(p for name, p in twin.named_parameters() if name.endswith(part)).mul_(2)
        assert not torch.equal(twin(IMAGES), expected) and torch.equal(model(IMAGES), expected)


def test_a_block_whose_forward_does_something_else_stays_as_it_is() -> None:
    model = task_model("timm", "segmentation").eval()
    blocks = model.clip_model.visual.trunk.blocks
    inner = blocks[1].forward
    blocks[1].forward = lambda x: inner(x) + 1
    expected, kinds = model(IMAGES), [type(block) for block in blocks]
    calls: list[int] = []
    blocks[0].mona.register_forward_hook(lambda *_: calls.append(1))
    ht.accelerate(model)
    assert "forward" in vars(blocks[1]) and type(blocks[1]) is kinds[1]
    assert "forward" not in vars(blocks[0]) and isinstance(blocks[0], kinds[0])
    assert calls == [] and all("forward" not in vars(block.mona) for block in blocks)
    torch.testing.assert_close(model(IMAGES), expected, atol=1e-5, rtol=1e-5)
    assert calls == [1]


def checkpointed(forward: Any) -> Any:
    return lambda *args: checkpoint(forward, *args, use_reentrant=False)


def in_a_closure(forward: Any) -> Any:
    around = checkpoint

    def wrapped(x: Tensor) -> Tensor:
        return around(forward, x, use_reentrant=False)

    return wrapped


def imported_inside(forward: Any) -> Any:
    def wrapped(x: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        return checkpoint(forward, x, use_reentrant=False)

    return wrapped


WRAPPERS = {
    "lambda": checkpointed,
    "partial": lambda forward: partial(checkpoint, forward, use_reentrant=False),
    "closure": in_a_closure,
    "import": imported_inside,
}


def counting(block: Any, forward: Any) -> Any:
    calls = 0

    def wrapped(x: Tensor) -> Tensor:
        nonlocal calls
        calls = calls + 1
        return block.mona(forward(x), (4, 4))

    return wrapped


def writing_an_attribute(block: Any, forward: Any) -> Any:
    def wrapped(x: Tensor) -> Tensor:
        block.mona.transpose = 1
        return block.mona(forward(x), (4, 4))

    return wrapped


def writing_an_item(block: Any, forward: Any, grid: Any = (4, 4)) -> Any:
    last = [0]

    def wrapped(x: Tensor) -> Tensor:
        last[0] = grid
        return block.mona(forward(x), grid)

    return wrapped


def deleting(block: Any, forward: Any) -> Any:
    def wrapped(x: Tensor, given: Any = None) -> Tensor:
        del given[0]
        return block.mona(forward(x), (4, 4))

    return wrapped


def importing(block: Any, forward: Any) -> Any:
    def wrapped(x: Tensor) -> Tensor:
        import mona  # noqa: F401

        return block.mona(forward(x), (4, 4))

    return wrapped


def yielding(block: Any, forward: Any) -> Any:
    def wrapped(x: Tensor) -> Any:
        yield block.mona(forward(x), (4, 4))

    return wrapped


def in_place(block: Any, forward: Any) -> Any:
    """A trial would not tell: it runs the block on the same tokens afterwards."""

    def wrapped(x: Tensor) -> Tensor:
        x += 1
        return block.mona(forward(x), (4, 4))

    return wrapped


def branching(block: Any, forward: Any) -> Any:
    """A trial would not tell: it has no options."""

    def wrapped(x: Tensor, **options: Any) -> Tensor:
        return forward(x, **options) if options else block.mona(forward(x), (4, 4))

    return wrapped


EFFECTS = [counting, writing_an_attribute, writing_an_item, deleting, importing, yielding, in_place, branching]


@pytest.mark.parametrize("replace", EFFECTS)
def test_a_forward_that_does_more_than_to_call_is_no_published_one(replace: Any) -> None:
    block = task_model("timm", "segmentation").clip_model.visual.trunk.blocks[1]
    assert owner(block.forward) is block
    del block.forward
    assert owner(replace(block, block.forward)) is None


def test_a_forward_that_counts_its_calls_goes_on_counting() -> None:
    model = task_model("timm", "segmentation").eval()
    block = model.clip_model.visual.trunk.blocks[1]
    del block.forward
    block.forward = counting(block, block.forward)
    ht.accelerate(model)
    calls = dict(zip(block.forward.__code__.co_freevars, block.forward.__closure__, strict=True))["calls"]
    before = calls.cell_contents
    model(IMAGES)
    assert calls.cell_contents == before + 1


def test_forwards_like_the_published_ones_are_taken() -> None:
    block = task_model("timm", "segmentation").clip_model.visual.trunk.blocks[1]
    del block.forward
    forward, grid = block.forward, [4, 4]

    def in_steps(x: Tensor, *args: Any, **options: Any) -> Tensor:
        x = forward(x, *args, **options)
        x = block.mona(x.transpose(0, 1), hw_shapes=grid)
        return x.transpose(0, 1)

    def of_the_class(x: Tensor) -> Tensor:
        return block.mona(type(block).forward(block, x), (4, 4))

    assert owner(in_steps) is block and owner(of_the_class) is block


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_around_the_forward_of_a_block_keeps_its_effect(wrapper: str, inside: bool) -> None:
    """Activation checkpointing changes no result, around a block with its adapter or around the block alone."""
    model = task_model("timm", "segmentation").train()
    block, runs = model.clip_model.visual.trunk.blocks[1], []
    if inside:
        del block.forward
        block.forward = _replaced(block, WRAPPERS[wrapper](block.forward))
    else:
        block.forward = WRAPPERS[wrapper](block.forward)
    handle = block.attn.register_forward_hook(lambda *_: runs.append(1))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    expected, expected_grads = run(model)
    assert len(runs) == 2, "once more in backward"
    report = ht.accelerate(model)
    assert len(report.swapped) == 4 and report.whole
    (left,) = report.left
    assert left.name == "clip_model.visual.trunk.blocks.1" and "a wrapper for example, so it stays" in left.reason
    got, grads = run(model)
    assert len(runs) == 4
    handle.remove()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(grads, expected_grads, atol=1e-4, rtol=1e-3)


def test_a_wrapper_around_a_block_that_nothing_reads_goes_on_running() -> None:
    model, calls = task_model("timm", "segmentation").eval(), []
    block = model.clip_model.visual.trunk.blocks[3]
    forward = block.forward
    block.forward = lambda x: calls.append(1) or forward(x)
    report = ht.accelerate(model)
    assert not report.whole and "no longer called has hooks or a replaced forward" in str(report)
    calls.clear()
    model(IMAGES)
    assert calls == [1]


def test_methods_that_are_replaced_are_not_left_out() -> None:
    """Before accelerate in the model and in an adapter, and behind it in the model."""

    class Parts(TaskModel):
        def read_of(self, images: Tensor) -> Tensor:
            return super().forward(images)

        def forward(self, images: Tensor) -> Tensor:
            return self.read_of(images)

    model, calls = task_model("timm", "segmentation").eval(), []
    model.__class__ = Parts
    adapter = model.clip_model.visual.trunk.blocks[0].mona.clip_mona

    def watch(module: Any, name: str) -> None:
        method = getattr(module, name)
        setattr(module, name, lambda *args: calls.append(name) or method(*args))

    watch(adapter, "adapt")
    watch(model, "read_of")
    report = ht.accelerate(model)
    reasons = {left.name: left.reason for left in report.left}
    assert "its adapt was replaced" in reasons["clip_model.visual.trunk.blocks.0.mona.clip_mona"]
    assert "its read_of was replaced" in reasons[""] and not report.whole
    calls.clear()
    model(IMAGES)
    assert calls == ["read_of", "adapt"]
    del model.read_of
    assert ht.accelerate(model).whole
    calls.clear()
    model(IMAGES)
    assert calls == ["adapt"]
    watch(model, "read_of")
    model(IMAGES)
    assert calls == ["adapt", "read_of", "adapt"]


class Looks(TaskModel):
    """Scales bytes, as forwards that look at their input do."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images / 255 if images.max() > 1 else images)


class Gray(TaskModel):
    def forward(self, x: Tensor, features: bool = False) -> Any:
        logits = super().forward(x.expand(-1, 3, -1, -1))
        return (logits, x) if features else logits


def test_a_forward_that_looks_at_its_input_is_left_alone() -> None:
    model = task_model("timm", "segmentation").eval()
    model.__class__ = Looks
    expected = model(255 * IMAGES)
    assert not ht.accelerate(model).whole
    torch.testing.assert_close(model(255 * IMAGES), expected, atol=1e-5, rtol=1e-5)


def test_other_calls_go_the_published_way() -> None:
    model = task_model("timm", "segmentation").eval()
    model.__class__ = Gray
    gray = IMAGES[:, :1]
    expected = [model(IMAGES), model(gray), model(IMAGES, features=True)[0]]
    assert ht.accelerate(model).whole
    for got, want in zip([model(x=IMAGES), model(gray), model(IMAGES, features=True)[0]], expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    for size in ((70, 70), (32, 128)):
        with pytest.raises(AssertionError, match="match model"):
            model(torch.rand(1, 3, *size))


@pytest.mark.parametrize("change", ["corners", "padding", "stride", "factor", "forward", "bias", "affine"])
def test_parts_that_are_replaced_later_are_computed_as_they_are(change: str) -> None:
    def changed(model: TaskModel) -> TaskModel:
        torch.manual_seed(5)
        upsample = {"mode": "bilinear", "align_corners": change == "corners"}
        if change == "corners":
            model.seg_head[0] = nn.Upsample((IMAGE, IMAGE), **upsample)
        elif change in ("padding", "stride"):
            model.seg_head[1] = nn.Conv2d(12, 2, 1, **{change: 2})
        elif change == "factor":
            model.seg_head[0] = nn.Upsample(scale_factor=16, **upsample)
        elif change == "forward":
            model.seg_head[1].forward = lambda x: 3 * x[:, :2]
        elif change == "bias":
            model.reduces[0] = nn.Linear(32, 12, bias=False)
        else:
            model.blocks[0][0] = nn.LayerNorm(12, elementwise_affine=False)
        return model

    model = task_model("timm", "segmentation").eval()
    expected = changed(task_model("timm", "segmentation").eval())(IMAGES)
    assert ht.accelerate(model).whole
    torch.testing.assert_close(changed(model)(IMAGES), expected, atol=1e-5, rtol=1e-4)


def test_copies_made_before_keep_the_adapters_of_the_original_and_the_report_says_so() -> None:
    copied = copy.deepcopy(task_model("timm", "segmentation").eval())
    report = ht.accelerate(copied)
    reasons = {left.name: left.reason for left in report.left}
    assert len(reasons) == len(report.left) == 4
    assert "copy the model after accelerate" in reasons["clip_model.visual.trunk.blocks.0"]


def test_the_trial_neither_adds_attributes_nor_changes_buffers() -> None:
    class Keeps(TaskModel):
        def forward(self, images: Tensor) -> Tensor:
            self.last = super().forward(images)
            return self.last

    model = task_model("timm", "classification")
    model.cls_head = nn.Sequential(*model.cls_head[:2], nn.BatchNorm1d(12), nn.Linear(12, 2))
    model.__class__ = Keeps
    before = {name: t.clone() for name, t in model.state_dict().items()}
    assert ht.accelerate(model).whole and not hasattr(model, "last")
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_random_numbers_of_the_tower_are_no_difference() -> None:
    model = task_model("timm", "segmentation")
    for block in model.clip_model.visual.trunk.blocks:
        block.drop_path1 = DropPath(0.5)
    assert ht.accelerate(model).whole


class Strange(TaskModel):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * 2


def test_models_that_stay_as_they_are_and_why() -> None:
    strange = task_model("timm", "segmentation")
    strange.__class__ = Strange
    replaced = task_model("timm", "segmentation")
    replaced.forward = replaced.forward
    narrow = task_model("timm", "segmentation")
    narrow.blocks[1][2] = nn.GELU("tanh")
    wide = task_model("timm", "segmentation")
    wide.seg_head[1] = nn.Conv2d(12, 2, 3, padding=1)
    hooked = task_model("timm", "segmentation")
    hooked.blocks[0][3].register_forward_hook(lambda *_: None)
    foreign = task_model("timm", "segmentation")
    foreign.clip_model = nn.Module()
    for model, why in (
        (strange, "its logits are not those"),
        (replaced, "forward was replaced"),
        (narrow, "pyramid is not"),
        (wide, "seg_head is not"),
        (hooked, "has hooks"),
        (foreign, "no vision tower"),
    ):
        kind = type(model)
        report = ht.accelerate(model)
        assert not report.whole and type(model) is kind
        (left,) = [each for each in report.left if each.name == ""]
        assert why in left.reason
        assert f"the model: left, {left.reason}" in str(report)
    twice = task_model("timm", "segmentation")
    ht.accelerate(twice)
    assert ht.accelerate(twice).left[-1].reason == "it is accelerated already"


def test_the_trial_leaves_modes_hooks_and_dropout_as_they_were() -> None:
    model = task_model("openai", "classification")
    model.clip_model.eval()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    model.cls_head[4].p = 0.3
    modes = [module.training for module in model.modules()]
    assert ht.accelerate(model).whole and calls == []
    assert [module.training for module in model.modules()] == modes and model.cls_head[4].p == 0.3
    model(IMAGES)
    assert calls == [1]


def test_in_lower_precision_the_logits_have_its_dtype() -> None:
    model = task_model("timm", "segmentation").bfloat16().eval()
    assert ht.accelerate(model).whole
    got = model(IMAGES.bfloat16())
    assert got.dtype == torch.bfloat16 and got.shape == (2, 2, IMAGE, IMAGE)
    plain = task_model("timm", "classification").eval()
    ht.accelerate(plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert plain(IMAGES).dtype == torch.bfloat16
        plain.task = "segmentation"
        assert plain(IMAGES).dtype == torch.bfloat16


def test_our_own_models_are_no_task_models_of_others() -> None:
    model = ht.HTCLIP.from_checkpoint("phantom")
    report = ht.accelerate(model)
    assert not report.whole and all("runs on the kernels already" in each.reason for each in report.left)


def test_random_numbers_of_other_devices_are_left_alone() -> None:
    """A model on the CPU is tried out with seeded random numbers, and a GPU's are for what is done there afterwards."""
    model = task_model("timm", "segmentation")
    with random_numbers_of_a_gpu() as touched:
        assert ht.accelerate(model).whole
    assert touched == []


def test_a_gpu_that_seems_to_be_there_is_watched() -> None:
    with random_numbers_of_a_gpu() as touched, torch.random.fork_rng():
        torch.manual_seed(0)
    assert touched == ["get_rng_state", "manual_seed_all", "set_rng_state"]


class Counts:
    """A forward that changes what its module has, and raises in training mode."""

    def forward(self, *args: Any, **options: Any) -> Any:
        self.seen.append(len(args))
        self.counts["calls"] = self.counts.get("calls", 0) + 1
        self.total = self.total + 1
        self.mean.add_(1)
        self.last = torch.rand(1)
        if self.training:
            raise RuntimeError("not in training")
        return super().forward(*args, **options)


@pytest.mark.parametrize("place", ["", "clip_model.visual.trunk.blocks.0", "clip_model.visual.trunk.blocks.0.mlp"])
@pytest.mark.parametrize("training", [False, True])
def test_a_trial_that_raises_leaves_everything_as_it_was(training: bool, place: str) -> None:
    model = task_model("timm", "segmentation").train(training)
    part = model.get_submodule(place)
    part.__class__ = type("Counting", (Counts, type(part)), {})
    part.seen, part.counts = [], {}
    part.register_buffer("total", torch.zeros(1))
    part.register_buffer("mean", torch.zeros(1))
    model.clip_model.eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None

    def state() -> list[Any]:
        parameters = model.named_parameters()
        return [
            (torch.random.get_rng_state().tolist(), torch.get_num_threads(), torch.is_grad_enabled()),
            [(name, m.training, getattr(m, "p", None)) for name, m in model.named_modules()],
            {name: t.tolist() for name, t in model.state_dict().items()},
            [(name, p.requires_grad, None if p.grad is None else p.grad.tolist()) for name, p in parameters],
            (list(part.seen), dict(part.counts), sorted(vars(part)), float(part.total), float(part.mean)),
        ]

    before = state()
    assert "RuntimeError: not in training" in str(ht.accelerate(model))
    assert state() == before
