"""One adapter timed by the command line: what it refuses, and what results.json has. No timing is asserted."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from ht_kernels.bench import measure, single
from ht_kernels.bench.setting import DTYPES, read_setting
from ht_kernels.choices import FORMS
from ht_kernels.cli import bench, main
from ht_kernels.ops.dispatch import BACKENDS, choices
from ht_kernels.published import VARIANTS

SMALL = ("--shape", "2,10,24,8", "--grid", "3,3", "--threads", "1")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MAX_SAMPLES", measure.MIN_SAMPLES)
    monkeypatch.setattr(measure, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(measure, "COPIED_FLOATS", 2**10)
    monkeypatch.setitem(measure.PRODUCT_SIDES, "cpu", 16)


def run(folder: Path, *options: str) -> dict[str, object]:
    assert main(["bench", *options, "--output", str(folder)]) == 0
    document: dict[str, object] = json.loads((folder / "results.json").read_text())
    return document


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("spectral", [None, "full", "radial"])
def test_a_run_with_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str], spectral: str | None) -> None:
    options = (*SMALL, "--backend", "cpu", "--stages", *(["--spectral", spectral] if spectral else []))
    before = torch.get_num_threads(), choices.asked
    document = run(tmp_path, *options)
    assert (torch.get_num_threads(), choices.asked) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "settings.yaml"]
    assert document["form"] == "adapter" and document["backend"] == "cpu" and document["threads"] == 1
    assert document["shape"] == {
        "batch": 2, "tokens": 10, "dim": 24, "bottleneck": 8, "grid": [3, 3], "prefix_tokens": 1,
        "variant": "hybrid", "spectral": spectral, "dtype": "fp32",
    }  # fmt: skip
    assert {"date", "commit", "unit", "environment", "command", "limits", "left_out", "device"} < set(document)
    rows = {(row["call"], row["stage"]): row for row in document["rows"]}
    whole = {("product", None), ("copy", None), ("forward", None), ("forward + backward", None)}
    parts = {"all", "begin", "down", "noise", "mix", "up", "wait", "outside"} | ({"filter"} if spectral else set())
    stages = {("forward", part) for part in parts} | {("backward", part) for part in (*parts, "end")}
    assert set(rows) == whole | stages
    for row in rows.values():
        assert len(row["each"]) == measure.MIN_SAMPLES and 0 <= row["p10"] <= row["p50"] <= row["p90"]
        assert row["share_of_product_peak"] is None or row["operations"] > 0
        assert row["share_of_copy_bandwidth"] is None or row["bytes"] > 0
    assert (
        rows["forward", "down"]["operations"] == 2 * 20 * 24 * 8 and rows["forward", None]["bytes"] == 2 * 20 * 24 * 4
    )
    assert rows["forward", "outside"]["operations"] is None and rows["product", None]["bytes"] is None
    for call in ("forward", "backward"):
        total = sum(
            sum(row["each"]) for (name, part), row in rows.items() if name == call and part not in (None, "all")
        )
        assert total == pytest.approx(sum(rows[call, "all"]["each"]), rel=1e-3)
    shown = capsys.readouterr().out
    assert all(single.label(row) in shown for row in document["rows"]) and "add up to" in shown

    again = str(document["command"]).split()
    assert again[:2] == ["ht-kernels", "bench"]
    assert {(row["call"], row["stage"]) for row in run(tmp_path, *again[2:], "--overwrite")["rows"]} == set(rows)


@pytest.mark.usefixtures("quick")
def test_a_run_of_the_reference_has_no_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = run(tmp_path, *SMALL, "--backend", "reference", "--dtype", "fp16", "--variant", "baseline", "--stages")
    assert [row["call"] for row in document["rows"]] == ["product", "copy", "forward", "forward + backward"]
    assert "stages" in document["left_out"] and "without stages: the backend reference" in capsys.readouterr().out
    forward = next(row for row in document["rows"] if row["call"] == "forward")
    assert forward["bytes"] == 2 * 20 * 24 * 2


def test_the_best_backend_is_chosen() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    setting = read_setting("2,10,24,8", "3,3", "hybrid", None, "fp32", None, None)
    assert setting.device().type == device and setting.backend in ("cuda", "triton", "cpu")
    assert setting.prefix_tokens == 1 and setting.threads == torch.get_num_threads()


def test_the_choices_are_what_there_is() -> None:
    """The command line names them without importing torch."""
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    choices_of = {action.dest: action.choices for action in parser._actions}
    assert tuple(choices_of["backend"]) == tuple(BACKENDS) and tuple(choices_of["variant"]) == tuple(VARIANTS)
    assert tuple(choices_of["spectral"]) == FORMS and tuple(choices_of["dtype"]) == tuple(DTYPES)


@pytest.mark.parametrize(
    "options, message",
    [
        ("--shape 2,10,24", "--shape 2,10,24 was given, expected B,N,D,C"),
        ("--shape 2,10,24,x --grid 3,3", "whole numbers of 1 or more, such as 8,197,768,64"),
        ("--shape 0,10,24,8 --grid 3,3", "--shape 0,10,24,8 was given"),
        ("--shape 2,10,24,8", "--shape needs --grid H,W"),
        ("--shape 2,10,24,8 --grid 3", "--grid 3 was given, expected H,W"),
        ("--shape 2,8,24,8 --grid 3,3", "--grid 3,3 has 9 patches and --shape 2,8,24,8 only 8 tokens"),
        ("--shape 2,10,24,2 --grid 3,3", "a bottleneck of 2; --variant hybrid needs at least 4"),
        ("--shape 2,10,24,8 --grid 3,3 --variant baseline --spectral full", "--spectral full needs --variant"),
        (
            "--shape 2,10,24,8 --grid 3,3 --backend cpu --dtype fp16",
            "--backend cpu cannot run this adapter: it computes",
        ),
        ("--shape 2,10,24,8 --grid 3,3 --threads 0", "--threads 0 was given, expected a number above 0"),
        ("--shape 2,10,24,8 --grid 3,3 --seconds nan", "--seconds nan was given"),
        ("--shape 2,10,24,8 --grid 3,3 --only heads", "--only heads was given with --shape"),
        ("--stages", "--stages was given without --shape"),
        ("--dtype bf16 --stream", "--dtype was given without --shape"),
        ("--threads 2", "--threads is for --shape and --stream"),
        ("--compare a b --seconds 3", "--seconds was given with --compare"),
    ],
)
def test_bad_input_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: str, message: str
) -> None:
    monkeypatch.setattr(single, "run", lambda *_: pytest.fail("work was begun"))
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *options.split()]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
