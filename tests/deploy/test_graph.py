"""CUDA graphs of the folded model, on a GPU where there is one and on a stand-in everywhere."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import ht_kernels as ht
from helpers.cuda_stand_in import Capture, CudaStandIn, Graph, OnGpu, stand_in, to_gpu
from helpers.small_models import calibrated, gray_frames, small_model
from ht_kernels.deploy import FoldedHTCLIP, GraphRunner, Session, graph, torch_compile
from ht_kernels.errors import BackendError, InputError

pytestmark = pytest.mark.usefixtures("one_thread")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class RealGpu:
    calls = 200
    """Enough of them to meet a race."""

    def put(self, folded: FoldedHTCLIP) -> FoldedHTCLIP:
        return folded.cuda()

    def hold_up(self) -> None:
        """Keep the current stream busy for a few milliseconds."""
        torch.cuda._sleep(10_000_000)

    def check(self) -> None: ...


class StandIn:
    """Every stream of it is held up, until somebody waits."""

    calls = 8

    def __init__(self, cuda: CudaStandIn) -> None:
        self.cuda = cuda

    def put(self, folded: FoldedHTCLIP) -> FoldedHTCLIP:
        return to_gpu(folded)

    def hold_up(self) -> None: ...

    def check(self) -> None:
        assert self.cuda.faults == []


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    gpu = StandIn(stand_in(monkeypatch))
    ht.set_backend("reference")
    yield gpu
    ht.set_backend(None)
    gpu.check()


@pytest.fixture(params=["fake", pytest.param("real", marks=needs_gpu)])
def gpu(request: pytest.FixtureRequest) -> StandIn | RealGpu:
    return request.getfixturevalue("fake") if request.param == "fake" else RealGpu()


def folded_model(gpu: StandIn | RealGpu, task: str = "segmentation") -> FoldedHTCLIP:
    return gpu.put(ht.fold(small_model("timm", task).float()))


def some_frames(count: int, batch: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randint(0, 256, (count, batch, 1, 64, 64), dtype=torch.uint8, generator=generator))


def one_by_one(run: GraphRunner | Session, frames: list[torch.Tensor]) -> list[torch.Tensor]:
    results = []
    for one in frames:
        results.append(run(one))
        torch.cuda.synchronize()
    return results


def assert_same(got: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    torch.cuda.synchronize()
    wrong = sum(not torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert wrong == 0, f"{wrong} of {len(expected)} results are wrong"


def test_needs_a_gpu() -> None:
    folded = ht.fold(small_model("timm"))
    with pytest.raises(BackendError, match="need a model on an NVIDIA GPU, and this one is on cpu"):
        GraphRunner(folded)
    with pytest.raises(ValueError, match="max_graphs must be at least 1, got 0"):
        GraphRunner(folded, max_graphs=0)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    made: list[object] = []
    init = graph._Graph.__init__

    def counted(self: object, *args: object) -> None:
        made.append(None)
        init(self, *args)

    monkeypatch.setattr(graph._Graph, "__init__", counted)
    return made


def test_one_graph_per_shape_and_no_more_than_asked_for(gpu: StandIn | RealGpu, captures: list[object]) -> None:
    folded = folded_model(gpu)
    runner = GraphRunner(folded, max_graphs=2)
    (frames,) = some_frames(1, batch=3)
    for batch in (frames, frames[:1], frames, frames[:1]):
        runner(batch)
    assert len(captures) == 2
    runner(frames[:2])  # the third shape: the one unused for longest goes
    runner(frames[:1])
    assert len(captures) == 3
    runner(frames)
    assert len(captures) == 4 and len(runner._graphs) == 2


def test_a_graph_is_not_used_for_other_settings(
    gpu: StandIn | RealGpu, captures: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = GraphRunner(folded_model(gpu))
    (frames,) = some_frames(1)
    runner(frames)
    with monkeypatch.context() as patch:
        patch.setattr(graph, "asked_for", lambda: "triton")
        runner(frames)
    runner(frames, output_size=(20, 30))
    torch.set_float32_matmul_precision("high")
    try:
        runner(frames)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert len(captures) == 4
    runner(frames)
    assert len(captures) == 4


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_masks(gpu: StandIn | RealGpu, task: str) -> None:
    folded = folded_model(gpu, task)
    (frames,) = some_frames(1, batch=3)
    logits, got = GraphRunner(folded)(frames), GraphRunner(folded, masks=True)(frames)
    torch.cuda.synchronize()
    assert got.dtype == torch.uint8 and torch.equal(got.long(), logits.argmax(1))


def test_distances(gpu: StandIn | RealGpu, captures: list[object]) -> None:
    """A graph of its own computes them with the result, and a plain call keeps its graph."""
    model = calibrated(small_model("timm")).float()
    folded, frames = gpu.put(ht.fold(model)), some_frames(2)
    expected = [ht.fold(model).with_distance(one) for one in frames]
    runner, session = GraphRunner(folded, masks=True), Session.open(folded, runtime="cuda_graph")
    captures.clear()
    got = []
    for one in frames:
        got.append((*runner.with_distance(one), *session.with_distance(one), runner(one), session(one)))
        torch.cuda.synchronize()
    assert len(captures) == 2  # the session captured its two graphs when it was opened
    for (mask, near, logits, distance, plain_mask, plain_logits), wanted in zip(got, expected, strict=True):
        torch.testing.assert_close((logits, distance), wanted, rtol=1e-3, atol=1e-3, check_device=False)
        assert_same([mask, near, plain_mask, plain_logits], [folded.classes(logits), distance, mask, logits])
    with pytest.raises(InputError, match="calibrate it with"):
        GraphRunner(folded_model(gpu)).with_distance(frames[0])


def test_frames_are_checked_before_anything_is_captured(gpu: StandIn | RealGpu, captures: list[object]) -> None:
    runner = GraphRunner(folded_model(gpu))
    with pytest.raises(InputError, match="frames must have shape"):
        runner(torch.zeros(1, 1, 5, 5, dtype=torch.uint8))
    with pytest.raises(InputError, match="not finite"):
        runner(some_frames(1)[0].float() / 0)
    with pytest.raises(TypeError, match="uint8 or floating point"):
        runner(some_frames(1)[0].long())
    assert len(captures) == 0


def test_the_stand_in_replays_the_model(fake: StandIn) -> None:
    model = small_model("timm").float()
    runner, frames = GraphRunner(to_gpu(ht.fold(model))), gray_frames(model)
    expected = ht.fold(model)(frames)
    first, again = runner(frames), runner(frames.as_subclass(OnGpu))
    assert not torch.equal(first, expected)
    assert_same([first, again], [expected, expected])


@needs_gpu
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_replay_equals_the_model(dtype: torch.dtype | None) -> None:
    model = small_model("timm").float()
    folded, frames = ht.fold(model, dtype).cuda(), gray_frames(model)
    runner = GraphRunner(folded, max_graphs=2)
    for batch in (frames, frames[:1], frames[:2], frames):
        first, again = runner(batch), runner(batch.cuda())
        torch.testing.assert_close(first, folded(batch.cuda()))
        assert torch.equal(first, again) and first.data_ptr() != again.data_ptr()


@needs_gpu
def test_weights_outlive_the_model_that_moved() -> None:
    model = small_model("timm").float()
    folded, frames = ht.fold(model).cuda(), gray_frames(model)
    runner = GraphRunner(folded, masks=True)
    before = runner(frames)
    for name, buffer in list(folded.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        setattr(folded.get_submodule(owner), leaf, torch.zeros_like(buffer))
    torch.cuda.empty_cache()
    assert torch.equal(runner(frames), before)


@pytest.mark.parametrize("pinned", [True, False])
def test_host_memory_may_be_refilled_at_once(gpu: StandIn | RealGpu, pinned: bool) -> None:
    runner, frames = GraphRunner(folded_model(gpu)), some_frames(gpu.calls)
    expected = one_by_one(runner, frames)
    buffer = torch.empty(frames[0].shape, dtype=torch.uint8, pin_memory=pinned)
    got = []
    for one in frames:
        buffer.copy_(one)
        gpu.hold_up()
        got.append(runner(buffer))
        buffer.fill_(255)
    assert_same(got, expected)


def test_a_graph_of_inference_mode_serves_other_modes(gpu: StandIn | RealGpu) -> None:
    runner, frames = GraphRunner(folded_model(gpu)), some_frames(2)
    with torch.inference_mode():
        expected = one_by_one(runner, frames)
    got = one_by_one(runner, frames)
    got[0].requires_grad_().sum().backward()  # refused where inference mode made it
    with torch.inference_mode():
        assert_same([*got, *one_by_one(runner, frames)], [*expected, *expected])


def test_a_graph_goes_after_its_last_replay(gpu: StandIn | RealGpu) -> None:
    runner, frames = GraphRunner(folded_model(gpu), max_graphs=1), some_frames(1, batch=3)
    expected = one_by_one(runner, frames)
    got, taken = [], []
    for _ in range(3):
        with torch.cuda.stream(torch.cuda.Stream()):
            gpu.hold_up()
            got.append(runner(frames[0]))
        runner(frames[0][:1])  # for which the graph of three frames goes
        taken.append(torch.zeros(frames[0].shape, dtype=torch.uint8, device=got[0].device))
    with torch.cuda.stream(torch.cuda.Stream()):
        gpu.hold_up()
        got.append(runner(frames[0]))
    del runner
    gc.collect()
    assert_same(got, expected * 4)


def test_results_are_the_callers_own(gpu: StandIn | RealGpu) -> None:
    runner, frames = GraphRunner(folded_model(gpu)), some_frames(3)
    results = one_by_one(runner, frames)
    kept = [result.clone() for result in results]
    assert len({result.data_ptr() for result in results}) == 3
    runner(frames[0])
    del runner
    gc.collect()
    assert_same(results, kept)


def test_threads_with_streams_of_their_own(gpu: StandIn | RealGpu) -> None:
    runner = GraphRunner(folded_model(gpu), max_graphs=2)
    frames = {batch: some_frames(gpu.calls, batch) for batch in (1, 2, 3)}  # more shapes than graphs
    expected = {batch: one_by_one(runner, some) for batch, some in frames.items()}

    def work(batch: int) -> list[torch.Tensor]:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            results = [runner(one) for one in frames[batch]]
            stream.synchronize()
        return results

    batches = (1, 2, 3, 1)
    with ThreadPoolExecutor(len(batches)) as pool:
        results = list(pool.map(work, batches))
    for batch, got in zip(batches, results, strict=True):
        assert_same(got, expected[batch])


def test_runners_capture_one_at_a_time(gpu: StandIn | RealGpu) -> None:
    folded, (frames,) = folded_model(gpu), some_frames(1)
    (expected,) = one_by_one(GraphRunner(folded), [frames])
    together = threading.Barrier(3)

    def work(_: int) -> torch.Tensor:
        runner = GraphRunner(folded)
        together.wait()
        with torch.cuda.stream(torch.cuda.Stream()):
            result = runner(frames)
            torch.cuda.current_stream().synchronize()
        return result

    with ThreadPoolExecutor(3) as pool:
        assert_same(list(pool.map(work, range(3))), [expected] * 3)


def test_no_garbage_collection_and_autocast_in_a_capture(
    gpu: StandIn | RealGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded, found = folded_model(gpu), []
    compute = folded.compute

    def watched(*args: object) -> torch.Tensor:
        found.append((gc.isenabled(), torch.is_autocast_enabled("cuda")))
        return compute(*args)

    monkeypatch.setattr(folded, "compute", watched)
    torch.set_autocast_enabled("cuda", True)
    try:
        GraphRunner(folded)(some_frames(1)[0])
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert found == [(False, False)] * (graph.WARM_UP + 1) and gc.isenabled()


def test_a_capture_that_fails_leaves_the_callers_stream(
    gpu: StandIn | RealGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded, (frames,) = folded_model(gpu), some_frames(1)
    runner, before = GraphRunner(folded), torch.cuda.current_stream()
    compute = folded.compute

    def fails(*args: object) -> torch.Tensor:
        if isinstance(gpu, RealGpu) and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("it cannot be captured")
        return compute(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Capture, "fails", True)
        patch.setattr(folded, "compute", fails)
        with pytest.raises(BackendError, match="could not be captured as a CUDA graph"):
            runner(frames)
    assert torch.cuda.current_stream() == before
    expected, got = one_by_one(GraphRunner(folded), [frames]), one_by_one(runner, [frames])
    assert_same(got, expected)


@pytest.mark.parametrize("works", [True, False])
@pytest.mark.parametrize("masks", [True, False])
def test_compiled(
    fake: StandIn, works: bool, masks: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What torch.compile gives is captured, and the model itself where that fails."""
    folded, frames, ran = folded_model(fake), some_frames(2), []
    expected = one_by_one(GraphRunner(folded, masks=masks), frames)

    def compile(function: Callable[..., object], mode: str = "", **options: object) -> Callable[..., object]:
        if mode and not works:
            raise RuntimeError("no compiler")
        return lambda x: (ran.append(None) if mode else None, function(x))[1]

    torch_compile.why_not.cache_clear()
    monkeypatch.setattr(torch, "compile", compile)
    got = one_by_one(GraphRunner(folded, masks=masks, compiled=True), frames)
    torch_compile.why_not.cache_clear()
    assert_same(got, expected)
    assert len(ran) == (1 + graph.WARM_UP + 1 if works else 0)  # the first is the comparison
    assert caplog.text.count("RuntimeError: no compiler") == (0 if works else 1)


@pytest.mark.parametrize("asked", [True, False])
def test_sessions_and_predictors_compile_where_asked(
    gpu: StandIn | RealGpu, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded, shapes = folded_model(gpu), []
    monkeypatch.setattr(graph, "compiled", lambda function, x, dtype: (shapes.append(tuple(x.shape)), function)[1])
    opened = Session.open(folded, runtime=None if asked else "cuda_graph", batch=(1, 2, 2), compiled=asked)
    assert opened.runtime == "cuda_graph" and shapes == [(2, 1, 64, 64)] * asked
    image = some_frames(1)[0][0, 0].numpy()
    assert ht.Predictor(folded, compiled=asked)([image, image])[0].state == "ok"
    assert shapes == [(2, 1, 64, 64), (1, 1, 64, 64)] * asked


@needs_gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_a_compiled_model_on_a_gpu(dtype: torch.dtype | None, caplog: pytest.LogCaptureFixture) -> None:
    model = small_model("timm").float()
    folded, frames = ht.fold(model, dtype).cuda(), gray_frames(model)
    if cause := torch_compile.why_not(folded.position.device):
        pytest.skip(f"torch.compile does not work here: {cause}")
    (expected,), (got,) = (one_by_one(GraphRunner(folded, compiled=flag), [frames]) for flag in (False, True))
    assert "torch.compile is not used" not in caplog.text
    allowed = torch_compile.TOLERANCE * torch.finfo(dtype or torch.float32).eps
    assert (got - expected).norm() <= allowed * expected.norm()


def test_a_model_on_a_device_that_is_not_the_current_one(fake: StandIn) -> None:
    runner, frames = GraphRunner(folded_model(fake)), some_frames(2)
    expected = one_by_one(runner, frames)
    with torch.cuda.device(1):
        got = [runner(one) for one in frames]
    torch.cuda.current_stream(0).synchronize()
    assert_same(got, expected)


def test_threads_share_a_session(gpu: StandIn | RealGpu) -> None:
    session = Session.open(folded_model(gpu), runtime="cuda_graph", batch=(1, 1, 2))
    frames = [some_frames(gpu.calls, 1), some_frames(gpu.calls, 2)] * 2
    expected = [one_by_one(session, some) for some in frames]

    def work(some: list[torch.Tensor]) -> list[torch.Tensor]:
        with torch.cuda.stream(torch.cuda.Stream()):
            results = [session(one) for one in some]
            torch.cuda.current_stream().synchronize()
        return results

    with ThreadPoolExecutor(len(frames)) as pool:
        results = list(pool.map(work, frames))
    for got, right in zip(results, expected, strict=True):
        assert_same(got, right)


def test_the_stand_in_sees_a_graph_freed_too_early(fake: StandIn) -> None:
    lost = Graph()
    lost.replay()
    del lost
    torch.cuda.synchronize()
    assert fake.cuda.faults.pop() == "a graph was freed before its replay"
