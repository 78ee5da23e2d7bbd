"""CUDA graphs of the folded model: what can be seen without a GPU, and the replay where there is one."""

from __future__ import annotations

import threading
from collections import OrderedDict

import pytest
import torch
from small_models import gray_frames, small_model

import ht_kernels as ht
from ht_kernels.deploy import GraphRunner, graph
from ht_kernels.errors import BackendError, InputError

pytestmark = pytest.mark.usefixtures("one_thread")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class EagerGraph:
    """Stands in for a captured graph; counts captures."""

    captured = 0

    def __init__(self, function, like, model):
        EagerGraph.captured += 1
        self.function = function

    def __call__(self, frames):
        return self.function(frames)


class RunnerOnCPU(GraphRunner):
    def __init__(self, model, masks=False, max_graphs=2):
        self.model, self.masks, self.max_graphs = model, masks, max_graphs
        self._graphs, self._lock = OrderedDict(), threading.Lock()


@pytest.fixture
def captures(monkeypatch):
    monkeypatch.setattr(graph, "_Graph", EagerGraph)
    EagerGraph.captured = 0
    return EagerGraph


def test_needs_a_gpu():
    folded = ht.fold(small_model("timm"))
    with pytest.raises(BackendError, match="need a model on an NVIDIA GPU, and this one is on cpu"):
        GraphRunner(folded)
    with pytest.raises(ValueError, match="max_graphs must be at least 1, got 0"):
        GraphRunner(folded, max_graphs=0)


def test_one_graph_per_shape_and_no_more_than_asked_for(captures):
    model = small_model("timm")
    folded, frames = ht.fold(model), gray_frames(model)
    runner = RunnerOnCPU(folded)
    for batch in (frames, frames[:1], frames, frames[:1]):
        torch.testing.assert_close(runner(batch), folded(batch), rtol=0, atol=0)
    assert captures.captured == 2
    runner(frames[:2])  # the third shape: the one unused for longest goes
    runner(frames[:1])
    assert captures.captured == 3
    runner(frames)
    assert captures.captured == 4 and len(runner._graphs) == 2


def test_a_graph_is_not_used_for_other_settings(captures):
    model = small_model("timm")
    frames, runner = gray_frames(model), RunnerOnCPU(ht.fold(model))
    runner(frames)
    ht.set_backend("reference")
    try:
        runner(frames)
    finally:
        ht.set_backend(None)
    runner(frames, output_size=(20, 30))
    assert captures.captured == 3


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_masks(captures, task):
    model = small_model("timm", task)
    folded, frames = ht.fold(model), gray_frames(model)
    got = RunnerOnCPU(folded, masks=True)(frames)
    assert got.dtype == torch.uint8 and torch.equal(got.long(), folded(frames).argmax(1))


def test_frames_are_checked_before_anything_is_captured(captures):
    model = small_model("timm")
    runner = RunnerOnCPU(ht.fold(model))
    with pytest.raises(InputError, match="frames must have shape"):
        runner(torch.zeros(1, 1, 5, 5, dtype=torch.uint8))
    with pytest.raises(InputError, match="not finite"):
        runner(gray_frames(model).float() / 0)
    with pytest.raises(TypeError, match="uint8 or floating point"):
        runner(gray_frames(model).long())
    assert captures.captured == 0


@needs_gpu
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_replay_equals_the_model(dtype):
    model = small_model("timm").float()
    folded, frames = ht.fold(model, dtype).cuda(), gray_frames(model)
    runner = GraphRunner(folded, max_graphs=2)
    for batch in (frames, frames[:1], frames[:2], frames):
        first, again = runner(batch), runner(batch.cuda())
        torch.testing.assert_close(first, folded(batch.cuda()))
        assert torch.equal(first, again) and first.data_ptr() != again.data_ptr()


@needs_gpu
def test_weights_outlive_the_model_that_moved():
    model = small_model("timm").float()
    folded, frames = ht.fold(model).cuda(), gray_frames(model)
    runner = GraphRunner(folded, masks=True)
    before = runner(frames)
    for name, buffer in list(folded.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        setattr(folded.get_submodule(owner), leaf, torch.zeros_like(buffer))
    torch.cuda.empty_cache()
    assert torch.equal(runner(frames), before)
