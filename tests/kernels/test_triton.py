"""The Triton backend: its numbers, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

import ht_kernels as ht
from helpers.adapters import GOLDEN, harness_adapter, random_adapter, read_golden, relative_error
from ht_kernels.backends.call import Case, Layout, Training
from ht_kernels.backends.triton import backend as triton
from ht_kernels.errors import BackendError
from ht_kernels.folding import FoldedAdapter, fold_adapter, split_norm
from ht_kernels.functional import ht_adapter
from ht_kernels.ops.dispatch import BACKENDS
from ht_kernels.published import VARIANTS

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # tests/conftest.py turns the interpreter on for the CPU

SHAPES = {  # dim, bottleneck, grid, prefix tokens, batch
    "odd": (40, 24, (5, 9), 2, 2),
    "no_prefix": (64, 16, (3, 4), 0, 1),
    "wide": (72, 64, (4, 4), 1, 1),
    "any_width": (37, 10, (3, 3), 1, 1),
    "one_patch": (16, 8, (1, 1), 5, 1),
}


@pytest.mark.parametrize("name", [name for name in GOLDEN if "5x9" in name])
def test_golden(name: str) -> None:
    published, grid, prefix, tensors = read_golden(name)
    x = tensors["x"].float().to(DEVICE)
    with torch.no_grad():
        out = ht_adapter(x, fold_adapter(published.float().to(DEVICE)), grid, prefix, backend="triton")
    assert relative_error(out.cpu().double() - tensors["x"], tensors["out"] - tensors["x"]) <= 1e-5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("variant", ["hybrid", "baseline"])
def test_float32(variant: str, shape: str) -> None:
    dim, bottleneck, grid, prefix, batch = SHAPES[shape]
    published = random_adapter(variant, dim, bottleneck)
    x = torch.randn(batch, prefix + grid[0] * grid[1], dim, dtype=torch.float64)
    x[..., 0] += 50  # as in CLIP, whose residual stream has a few large channels
    with torch.no_grad():
        expected = published(x, grid, prefix) - x
        folded = fold_adapter(copy.deepcopy(published).float().to(DEVICE))
        # Strided tokens, sequence first, as the original CLIP package passes them.
        tokens = x.float().to(DEVICE).transpose(0, 1).contiguous().transpose(0, 1)
        out = ht_adapter(tokens, folded, grid, prefix, backend="triton")
        if shape == "no_prefix" or DEVICE == "cuda":  # the interpreter runs programs one after another
            assert torch.equal(out, ht_adapter(tokens, folded, grid, prefix, backend="triton"))
    assert out.stride() == tokens.stride() and out.dtype == torch.float32
    assert relative_error(out.cpu().double() - x, expected) <= 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits(variant: str, dtype: torch.dtype) -> None:
    """The error is at most 1.5 times that of the published module in the same dtype."""
    dim, bottleneck, grid, prefix, _ = SHAPES["odd"]
    low = random_adapter(variant, dim, bottleneck).to(dtype)
    exact = copy.deepcopy(low).double()
    published = low
    if low.frequency:  # torch has no Fourier transform of this size in 16 bits: the same without the filter
        published = random_adapter("noise_aware" if low.noise else "baseline", dim, bottleneck).to(dtype)
    x = torch.randn(1, prefix + grid[0] * grid[1], dim).to(dtype)
    with torch.no_grad():
        expected = exact(x.double(), grid, prefix) - x.double()
        plain = copy.deepcopy(published).double()(x.double(), grid, prefix) - x.double()
        bound = 1.5 * relative_error(published(x, grid, prefix).double() - x.double(), plain)
        out = ht_adapter(x.to(DEVICE), fold_adapter(low.to(DEVICE)), grid, prefix, backend="triton")
    assert relative_error(out.cpu().double() - x.double(), expected) <= bound


HARD = {  # tokens whose statistics or products lose digits easily, from ordinary ones
    "large_channels": lambda x: torch.cat([300 + 50 * x[..., :1], x[..., 1:-3], 50 * x[..., -3:]], -1),
    "large_mean": lambda x: x + 20,
    "huge_mean": lambda x: 2 * x + 1000,
    "small": lambda x: x / 1000,
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize(
    ("prefix", "dim", "bottleneck", "grid"),
    [
        (0, 64, 16, (3, 5)),
        (1, 192, 64, (7, 5)),
        (2, 37, 10, (1, 9)),
        (3, 75, 24, (9, 9)),
        (4, 16, 8, (1, 1)),
        (5, 136, 70, (2, 7)),
    ],
)
def test_hard_tokens_in_16_bits(
    prefix: int, dim: int, bottleneck: int, grid: tuple[int, int], kind: str, dtype: torch.dtype
) -> None:
    """As test_16_bits, whether it is mostly the LayerNorm that counts or mostly what passes by it."""
    x = HARD[kind](torch.randn(1, prefix + grid[0] * grid[1], dim)).to(dtype)
    for skip in (1, 0):
        low = random_adapter("baseline", dim, bottleneck)
        with torch.no_grad():
            low.gammax.mul_(skip)
            low = low.to(dtype)
            expected = copy.deepcopy(low).double()(x.double(), grid, prefix) - x.double()
            bound = 1.5 * relative_error(low(x, grid, prefix).double() - x.double(), expected)
            out = ht_adapter(x.to(DEVICE), fold_adapter(low.to(DEVICE)), grid, prefix, backend="triton")
        assert relative_error(out.cpu().double() - x.double(), expected) <= bound, skip


def test_tf32(allow_tf32: None) -> None:
    """Tensor cores cut float32 operands off; rounded before, the adapter's error is half of what is allowed."""
    dim, bottleneck, grid, prefix = 192, 64, (3, 3), 1
    published = harness_adapter(dim, bottleneck)
    x = torch.randn(1, prefix + grid[0] * grid[1], dim)
    x[..., :3] *= 50
    with torch.no_grad():
        expected = copy.deepcopy(published).double()(x.double(), grid, prefix) - x.double()
        out = ht_adapter(x.to(DEVICE), fold_adapter(published.to(DEVICE)), grid, prefix, backend="triton")
    assert 1e-4 < relative_error(out.cpu().double() - x.double(), expected) <= 1e-3


@pytest.mark.skipif(DEVICE == "cuda", reason="the search for the fastest tile tries them on a GPU")
@pytest.mark.parametrize(
    ("tile", "slices"),
    [
        ({"ROWS": 16, "COLUMNS": 16, "DEPTH": 16}, {"ROWS": 32, "SLICES": 3, "DEPTH": 16}),
        ({"ROWS": 32, "COLUMNS": 32, "DEPTH": 32}, {"ROWS": 16, "SLICES": 2, "DEPTH": 16}),
    ],
)
def test_every_tile_is_right(tile: dict[str, int], slices: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    import triton as compiler

    from ht_kernels.backends.triton.kernels.down_project import down_project
    from ht_kernels.backends.triton.kernels.mix_and_up_project import mix_and_up_project

    published = random_adapter("hybrid", 40, 24)
    x = torch.randn(1, 2 + 5 * 9, 40, dtype=torch.float64)
    monkeypatch.setattr(down_project, "configs", [compiler.Config(tile)])
    monkeypatch.setattr(mix_and_up_project, "configs", [compiler.Config(slices)])
    with torch.no_grad():
        expected = published(x, (5, 9), 2) - x
        out = ht_adapter(x.float(), fold_adapter(published.float()), (5, 9), 2, backend="triton")
    assert relative_error(out.double() - x, expected) <= 1e-5


@pytest.mark.skipif(DEVICE == "cuda", reason="the search for the fastest tile tries them on a GPU")
@pytest.mark.parametrize(
    "tile",
    [
        {"ROWS": 16, "COLUMNS": 16, "DEPTH": 16},
        {"ROWS": 32, "COLUMNS": 32, "DEPTH": 32},
        {"ROWS": 64, "COLUMNS": 16, "DEPTH": 64},
    ],
)
def test_every_tile_of_16_bits_is_right(tile: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    import triton as compiler

    from ht_kernels.backends.triton.kernels.stacked_down_project import stacked_down_project

    low = random_adapter("hybrid", 40, 24).to(torch.float16)
    x, folded = torch.randn(2, 2 + 5 * 9, 40).half(), fold_adapter(low)
    with torch.no_grad():
        expected = ht_adapter(x, folded, (5, 9), 2, backend="triton")
        monkeypatch.setattr(stacked_down_project, "configs", [compiler.Config(tile)])
        out = ht_adapter(x, folded, (5, 9), 2, backend="triton")
    # The tiles differ in the order of float32 sums, so where h rounds to another number it is the next one.
    assert relative_error(out - x, expected - x) <= 2e-4


def test_a_mean_of_2000_deviations_costs_the_variance_no_digits() -> None:
    """Seen in the bottleneck, because ``out`` is rounded as x is. In float32 the square of 2000 has a step of 0.25, and
    the variance is 1."""
    from ht_kernels.backends.triton import forward

    grid, dim = (3, 5), 768
    folded = fold_adapter(random_adapter("baseline", dim, 16))
    folded = FoldedAdapter(*(None if t is None else t.detach() for t in folded))
    folded = folded._replace(skip_gain=torch.zeros_like(folded.skip_gain))
    x = (2000 + torch.randn(1, 15, dim)).half()
    normed = torch.nn.functional.layer_norm(x.double(), (dim,), eps=1e-5) * folded.norm_gain
    expected = normed @ folded.down_weight.T + folded.down_bias
    made = triton.prepare(folded.map(lambda t: t.float().to(DEVICE)), torch.float16, grid)
    tokens = x.to(DEVICE)
    h, _, sums = triton.empty_state(tokens, made.folded, torch.float16)
    how = Training(None, None, 0.0, torch.float16)
    forward.fill(made, tokens, Layout(*grid, 0, 1e-5), how, torch.empty_like(tokens), h, None, sums, False)
    assert relative_error(h.cpu(), expected) <= 2e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_stacked_once_for_inference(dtype: torch.dtype) -> None:
    folded = fold_adapter(random_adapter("hybrid", 1100, 10).float().to(DEVICE))
    folded = FoldedAdapter(*(None if t is None else t.detach() for t in folded))
    made = triton.prepare(folded, dtype, (3, 3))
    wa, wb, _ = split_norm(folded.down_weight, folded.norm_gain, folded.skip_gain)
    assert made.stacked is not None and made.row_sums is not None
    assert torch.equal(made.stacked[0::2], wa.to(dtype)) and torch.equal(made.stacked[1::2], wb.to(dtype))
    torch.testing.assert_close(made.row_sums, wa.to(dtype).double().sum(1).float(), rtol=1e-5, atol=1e-5)
    assert triton.prepare(folded, torch.float32, (3, 3)).stacked is None
    assert triton.prepare_training(folded, dtype, (3, 3)).stacked is None


def test_reasons() -> None:
    def reason(**changes: object) -> str:
        case = {
            "device": torch.device(DEVICE),
            "dtype": torch.float32,
            "dim": 768,
            "bottleneck": 64,
            "grid": (14, 14),
            "prefix_tokens": 1,
            "needs_grad": False,
            "named": True,
        }
        return str(triton.can_run(Case(**{**case, **changes})))

    assert reason() == "None"
    assert reason(needs_grad=True) == "None"
    assert "pass dropout, not keep" in reason(needs_grad=True, keeps=True)
    assert "float64" in reason(dtype=torch.float64)
    assert "this one has 512" in reason(bottleneck=512)
    assert "meta" in reason(device=torch.device("meta"))


def test_a_failing_backend_gives_way_once(failing_triton: None, caplog: pytest.LogCaptureFixture) -> None:
    published = random_adapter("hybrid", 40, 24)
    x, folded = torch.randn(1, 2 + 5 * 9, 40, device=DEVICE), fold_adapter(published.float().to(DEVICE))
    with torch.no_grad(), caplog.at_level(logging.WARNING, "ht_kernels"):
        with pytest.raises(BackendError, match="Triton could not run the kernels: RuntimeError: no driver"):
            ht_adapter(x, folded, (5, 9), 2, backend="triton")
        expected = ht_adapter(x, folded, (5, 9), 2, backend="reference")
        for _ in range(2):
            assert torch.equal(ht_adapter(x, folded, (5, 9), 2), expected)
    assert [record.getMessage() for record in caplog.records] == [
        f"backend 'triton' failed on {x.device} and is not used there any more: "
        "Triton could not run the kernels: RuntimeError: no driver"
    ]


def test_too_little_memory_is_not_for_ever(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    published = random_adapter("baseline", 16, 8)
    x, folded = torch.randn(1, 1 + 9, 16, device=DEVICE), fold_adapter(published.float().to(DEVICE))
    calls = []

    def fail(*_: object) -> None:
        calls.append(1)
        raise torch.OutOfMemoryError("8 GB wanted")

    monkeypatch.setattr("ht_kernels.backends.triton.forward.launch", fail)
    monkeypatch.setattr(triton, "can_run", lambda case: None)
    for name in ("cuda", "cpu"):
        monkeypatch.setattr(BACKENDS[name], "can_run", lambda case: "out of the way")
    with torch.no_grad(), caplog.at_level(logging.WARNING, "ht_kernels"):
        for _ in range(2):
            ht_adapter(x, folded, (3, 3))
    assert len(calls) == 2 and "8 GB wanted" in caplog.text


def test_operator() -> None:
    """The operator that compilers and exporters see."""
    published = random_adapter("hybrid", 16, 8).float().to(DEVICE)
    x = torch.randn(1, 1 + 9, 16, device=DEVICE)
    args = (x, *fold_adapter(published), None, None, 0.0, x.dtype, 3, 3, 1, 1e-5, False, False, "triton", True)
    args = tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in args)
    torch.library.opcheck(torch.ops.ht_kernels.adapter.default, args)


def test_compile_and_export_see_one_operator() -> None:
    adapter = ht.HTAdapter(16, 8).eval().to(DEVICE)
    x = torch.randn(1, 1 + 9, 16, device=DEVICE)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.adapter = adapter

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.adapter(x, (3, 3))

    ht.set_backend("triton")
    try:
        with torch.no_grad():
            expected = adapter(x, (3, 3))
            compiled = torch.compile(Model(), fullgraph=True, backend="aot_eager")(x)
            exported = torch.export.export(Model(), (x,))
            calls = [node for node in exported.graph.nodes if "ht_kernels.adapter" in str(node.target)]
            assert len(calls) == 1
            torch.testing.assert_close(compiled, expected)
            torch.testing.assert_close(exported.module()(x), expected)
    finally:
        ht.set_backend(None)
