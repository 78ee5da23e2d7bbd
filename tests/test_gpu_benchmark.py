"""The GPU benchmark as a program: everything but the numbers runs on the CPU, with Triton's interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # behind the installed ht_kernels, which the checkout's own would hide

pytest.importorskip("triton")
from benchmarks.gpu import baseline, correctness, report  # noqa: E402
from benchmarks.gpu.__main__ import run  # noqa: E402
from ht_kernels import published  # noqa: E402

sys.path.remove(str(ROOT))

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_section_runs_and_is_reported(tmp_path: Path) -> None:
    document = run(torch.device("cpu"), lambda: 1e9, full=False, backbone="timm/vit_tiny_patch16_224")
    assert not document["errors"]
    assert document["correctness"] and all(row["passed"] for row in document["correctness"])
    assert [row["what"] for row in document["timings"]] == [
        "adapter forward",
        "spectral filter B=1 C=2 grid=2x3",
        "spectral filter forward + backward B=1 C=2 grid=2x3",
        "adapter forward + backward",
        "segmentation model",
    ]
    assert all(not row["failed"] for row in document["timings"])
    assert document["timings"][-1]["passed"] and document["latency"]["p50"] > 0
    report.write(document, tmp_path)
    assert (
        json.loads((tmp_path / "results.json").read_text())["timings"][0]["timings"]["published, eager"]["median"] > 0
    )
    assert "## adapter forward, float32, B=1" in (tmp_path / "results.md").read_text()


def test_a_wrong_result_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = correctness.ht_adapter
    monkeypatch.setattr(correctness, "ht_adapter", lambda x, *rest, **more: right(x, *rest, **more) * 1.01)
    rows = correctness.check(["reference"], torch.device("cpu"), [("hybrid", 1, 32, 8, (2, 3), 1)])
    assert not any(row["passed"] for row in rows)
    assert any("WRONG" in line for line in report._correctness(rows))


def test_the_baseline_only_adds_the_cast() -> None:
    torch.manual_seed(0)
    adapter = published.HybridAdapter(32, 8).eval()
    x = torch.randn(2, 7, 32)
    low = baseline.in_dtype(adapter, torch.bfloat16)
    with torch.no_grad():
        out = low(x.bfloat16(), (2, 3)).float()
        torch.testing.assert_close(out, adapter(x, (2, 3)), rtol=0.05, atol=0.05)
        low.to(torch.float32).load_state_dict(
            {k.replace("adapter_conv.", "adapter_conv.conv."): t for k, t in adapter.state_dict().items()}
        )
        torch.testing.assert_close(low(x, (2, 3)), adapter(x, (2, 3)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--output", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "needs an NVIDIA GPU" in done.stderr and not (tmp_path / "out").exists()
