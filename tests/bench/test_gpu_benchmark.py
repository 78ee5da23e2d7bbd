"""The GPU benchmark as a program: everything but the numbers runs on the CPU, and what goes wrong costs no results."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from helpers import ROOT
from helpers.bare_machine import ABSENT

pytest.importorskip("triton")
import ht_kernels as ht
from benchmarks.gpu import (
    __main__,
    baselines,
    compiled_models,
    correctness,
    low_precision,
    machine,
    masks,
    measure,
    plan,
    report,
    runner,
    sanitize,
)
from benchmarks.gpu.section import read_lines
from benchmarks.gpu.setting import Setting
from ht_kernels import published

pytestmark = pytest.mark.usefixtures("one_thread")


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the program says, in this process, before it ends with status 2."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def call(*arguments: object) -> str:
        try:
            status = __main__.main([str(argument) for argument in arguments])
        except SystemExit as ended:
            status = ended.code
        assert status == 2
        return capsys.readouterr().err

    return call


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of everything, on a machine that has none of the extras."""
    folder = tmp_path_factory.mktemp("gpu")
    output = folder / "results"
    for name in ABSENT:
        (folder / f"{name}.py").write_text(f"raise ImportError('this machine has no {name}')")
    done = run("--output", output, "--dry-run", "--budget", 1200, OMP_NUM_THREADS="1", PYTHONPATH=str(folder))
    assert done.returncode == 0, done.stdout + done.stderr + (output / "log.txt").read_text()[-3000:]
    for name in plan.NAMES:
        assert f"\n{name}: done, " in f"\n{done.stdout}", done.stdout
    return output


@pytest.mark.timeout(1200)
def test_every_section_runs_and_is_reported(dry_run: Path) -> None:
    documents = runner.read(dry_run)
    assert tuple(documents) == plan.NAMES
    rows = [row for document in documents.values() for item in document["items"] for row in item["rows"]]
    checks = [row for row in rows if row["kind"] == "check"]
    assert all(row["passed"] and row["same_bits"] for row in checks)
    assert {(row["backend"], row["dtype"]) for row in checks} >= {
        (backend, dtype) for backend in ("cuda", "triton") for dtype in correctness.DTYPES
    }
    timings = [row for row in rows if row["kind"] == "timing"]
    assert all("ours" in row["timings"] and not row["failed"] for row in timings)
    names = {name for row in timings for name in row["timings"]}
    assert any(row["what"].startswith("masks, ") for row in checks)
    (of_masks,) = (row for row in timings if row["what"].startswith("masks, "))
    assert {"torch.interpolate, argmax", "torch.interpolate, classes_of", "ours", "copy of x"} <= of_masks[
        "timings"
    ].keys()
    assert of_masks["bytes"] == 4 * 3 * 14 * 14 + 20 * 31
    assert {"published, eager", "published, compile (default)", "torch.fft, eager", "copy of x"} <= names
    assert "ours, compile (max-autotune-no-cudagraphs)" in names
    assert "float8_e4m3fn" in {row["dtype"] for row in checks}
    assert {"ours, FP8", "ours, FP8, compile (max-autotune-no-cudagraphs)"} <= names
    assert {"build", "tool", "ceilings", "latency", "agreement"} <= {row["kind"] for row in rows}
    table = (dry_run / "results.md").read_text()
    assert "### adapter forward, B=1, bfloat16, cuda" in table and "WRONG" not in table


@pytest.mark.timeout(600)
def test_a_second_call_goes_on_with_what_is_missing(dry_run: Path) -> None:
    """One section was cut off in its second item, one never ran; all others stay as they are."""
    path = dry_run / "gradients.json"
    document = json.loads(path.read_text())
    first, second, *_ = document["items"]
    lines = [{"machine": document["machine"]}, {"started": first["item"]}, first, {"started": second["item"]}]
    (dry_run / "gradients.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path.write_text(json.dumps({**document, "status": "cut off after 9 s", "items": [first]}))
    (dry_run / "cuda-correctness.json").unlink()
    before = {name: (dry_run / f"{name}.json").stat().st_mtime_ns for name in ("build", "cuda-timing")}
    done = run("--output", dry_run, "--dry-run", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"  {first['item']}: " not in done.stdout and f"  {second['item']}: " in done.stdout
    assert "cuda-correctness: done" in done.stdout and "cuda-timing: at most" not in done.stdout
    assert before == {name: (dry_run / f"{name}.json").stat().st_mtime_ns for name in before}
    again = json.loads(path.read_text())
    assert again["status"] == "done" and again["items"][0] == first
    assert [item["item"] for item in again["items"]] == [item["item"] for item in document["items"]]


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Path:
    """A program in place of Python, which a section's process then is; ``$lines`` is the section's file of lines."""
    program, output = tmp_path / "python", tmp_path / "results"
    program.write_text(f"#!/bin/sh\nlines={output}/$3.jsonl\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setattr(runner.sys, "executable", str(program))
    return output


def test_a_section_that_takes_too_long_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had found is kept, its process is ended with all that it started, and the next section has its turn."""
    output = stand_in(
        tmp_path,
        monkeypatch,
        """
        echo '{"machine": {"dry_run": true, "gpu": {"name": "G"}, "date": 0, "commit": 1,'\\
             '"driver": 2, "torch": 3, "triton": 4, "cuda": 5}}' >> $lines
        echo '{"item": "quick", "rows": []}' >> $lines
        [ $3 = build ] || exit 0
        echo '{"started": "slow"}' >> $lines
        sleep 987 & wait
        """,
    )
    monkeypatch.setattr(runner, "LEAST", 0.0)
    monkeypatch.setattr(runner, "SECTIONS", plan.SECTIONS[:2])
    documents = runner.run(output, (), 5.0, dry=True, say=lambda words: None)
    document = json.loads((output / "build.json").read_text())
    assert document == documents["build"]
    status = document["status"]
    assert re.fullmatch("cut off after [1-4] s, in slow", status)
    assert [item["item"] for item in document["items"]] == ["quick"]
    assert documents["cuda-correctness"]["status"] == "done"
    assert f"| build | {status} | " in (output / "results.md").read_text()
    assert ends("sleep 987 ")
    assert f"build: {status}" in report.wrong(documents)


def ends(words: str) -> bool:
    """Whether processes with these words in their command lines end within seconds, as those that were killed do."""
    limit = time.monotonic() + 10
    while any(words in command for command in running()):
        if time.monotonic() > limit:
            return False
        time.sleep(0.05)
    return True


def running() -> list[str]:
    """The command lines of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            found.append(path.read_text().replace("\0", " "))
    return found


def test_a_process_that_dies_costs_one_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = stand_in(
        tmp_path,
        monkeypatch,
        """
        echo '{"machine": {"gpu": "G"}}' >> $lines
        if ! grep -q first $lines; then
          echo '{"started": "first"}' >> $lines
          kill -SEGV $$
        fi
        echo '{"started": "second"}' >> $lines
        echo '{"item": "second", "rows": []}' >> $lines
        """,
    )
    output.mkdir()
    document = runner._run_section(output, plan.SECTIONS[1], 60.0, dry=True)
    assert document["status"] == "done"
    assert document["items"] == [
        {"item": "first", "error": "its process ended by SIGSEGV"},
        {"item": "second", "rows": []},
    ]
    assert report.wrong({"cuda-correctness": document}, cut_off=False) == ["first: its process ended by SIGSEGV"]


def test_a_process_that_does_not_start_is_not_tried_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = stand_in(tmp_path, monkeypatch, "echo no module named torch >&2; exit 1")
    output.mkdir()
    document = runner._run_section(output, plan.SECTIONS[1], 60.0, dry=True)
    assert document["status"] == "failed: its process ended with exit status 1; log.txt has what it said"
    assert "no module named torch" in (output / "log.txt").read_text()


def test_what_a_rehearsal_or_another_commit_did_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def section(output: Path, section: plan.Section, limit: float, dry: bool) -> dict[str, object]:
        started.append(section.name)
        return {"status": "done", "seconds": 1.0, "machine": machine.facts(dry), "items": []}

    monkeypatch.setattr(runner, "_run_section", section)
    rehearsal = machine.facts(dry=True)
    found = (rehearsal, {**rehearsal, "date": "yesterday"}, {**rehearsal, "commit": "old"})
    for name, facts in zip(plan.NAMES[:3], found, strict=True):
        document = {"status": "done", "seconds": 1.0, "machine": facts, "items": []}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    runner.run(tmp_path, (), 900.0, dry=True, say=lambda words: None)
    assert started == list(plan.NAMES[2:])
    started.clear()
    runner.run(tmp_path, (), 900.0, dry=False, say=lambda words: None)
    assert started == list(plan.NAMES)


def test_a_damaged_document_is_missing(tmp_path: Path) -> None:
    said: list[str] = []
    whole = {"status": "done", "seconds": 1.0, "machine": None, "items": []}
    parts = [json.dumps({**whole, key: 3 if key != "seconds" else "3"}) for key in whole]
    for name, content in zip(plan.NAMES[:7], ("{", "[]", '{"status": "done"}', *parts), strict=True):
        (tmp_path / f"{name}.json").write_text(content)
    assert runner.read(tmp_path, said.append) == {}
    assert len(said) == 7 and said[0].endswith("build.json is damaged, and build counts as missing")


def test_one_call_at_a_time(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another call works on" in refused("--output", tmp_path / "out", "--dry-run")


@pytest.mark.parametrize("last", ["it ends by itself", "it is cut off"])
def test_a_tool_that_watches_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str) -> None:
    """When it is cut off that is a failure, and the process that it watched ends too."""
    program = tmp_path / "compute-sanitizer"
    body = "echo ERROR SUMMARY: 0 errors" if last == "it ends by itself" else "(sleep 986) & sleep 985"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(sanitize, "SECONDS", 1.0)
    monkeypatch.setattr(sanitize, "_compiled_core", lambda: tmp_path)
    (row,) = sanitize._watch("memcheck")
    assert row["passed"] == (last == "it ends by itself"), row
    assert ends("sleep 985 ") and ends("sleep 986 ")


def test_results_of_another_commit_are_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        {"machine": {"commit": "1"}},
        {"item": "old", "rows": []},
        {"machine": {"commit": "2"}},
        {"started": "new"},
    ]
    path.write_bytes("\n".join(map(json.dumps, [*lines, None, 3, "x", {}])).encode() + b'\n\xff\xfe\n{"item": "ha')
    found = read_lines(path)
    assert (found.machine, found.results, found.under_way) == ({"commit": "2"}, [], "new")


def test_every_section_has_its_turn_in_a_small_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in front first, for the others need what they build."""
    limits = {}

    def section(output: Path, section: plan.Section, limit: float, dry: bool) -> dict[str, object]:
        limits[section.name] = limit
        monkeypatch.setattr(runner.time, "monotonic", lambda: sum(limits.values()))
        return {"status": "done", "seconds": limit, "machine": machine.facts(dry), "items": []}

    monkeypatch.setattr(runner.time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(runner, "_run_section", section)
    said: list[str] = []
    runner.run(tmp_path, (), 25.0, dry=True, say=said.append)
    assert limits == {"build": 10.0, "cuda-correctness": 10.0}
    assert "cuda-timing: left out, 5 s are left of the budget, and a section takes 10 or more" in said


def test_a_table_says_that_it_is_a_rehearsal() -> None:
    facts = {**machine.facts(dry=False), "gpu": {"name": "NVIDIA H100"}, "commit": "abc", "driver": None}
    document = {"status": "done", "seconds": 1.0, "items": []}
    both = {
        "build": {**document, "machine": facts},
        "cuda-timing": {**document, "machine": {**facts, "dry_run": True}},
    }
    lines = report.table(both)
    assert lines.index("(build)") < lines.index("# Rehearsal on the CPU: its times say nothing about a GPU")
    assert lines[0] == "# NVIDIA H100" and "(cuda-timing)" in lines
    assert lines[2].startswith(f"{facts['date']}, commit abc, torch ")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_call_that_is_ended_leaves_no_section_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    """And the next call finds what was done until then; what an earlier one did again from its beginning is gone."""
    python, facts = sys.executable, machine.facts(dry=True)
    output = stand_in(tmp_path, monkeypatch, f"cat {tmp_path}/begun >> $lines; exec sleep 984")
    begun = {"machine": facts}, {"started": "first"}
    (tmp_path / "begun").write_text("".join(json.dumps(line) + "\n" for line in begun))
    output.mkdir()
    old = {"status": "done", "seconds": 12345.0, "machine": facts, "items": []}
    (output / "build.json").write_text(json.dumps(old))
    program = f"""
import sys
sys.executable = {sys.executable!r}
from benchmarks.gpu.__main__ import main
sys.exit(main(["--output", {str(output)!r}, "--dry-run", "--only", "build"]))
"""
    process = subprocess.Popen(
        [python, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(how, signal.SIG_DFL) if how == signal.SIGINT else None,
    )
    lines = output / "build.jsonl"
    while "started" not in (lines.read_text() if lines.exists() else ""):
        time.sleep(0.2)
        assert process.poll() is None
    process.send_signal(how)
    _, errors = process.communicate(timeout=30)
    killed = how == signal.SIGKILL
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 1, signal.SIGKILL: -signal.SIGKILL}[how]
    assert "Traceback" not in errors and ("interrupted; the same call goes on" in errors) == (how == signal.SIGINT)
    assert (output / "build.json").exists() != killed
    assert killed or "| build | cut off with the whole call | " in (output / "results.md").read_text()
    assert ends("sleep 984 ")
    assert read_lines(lines).under_way == "first"


def test_results_that_are_timed_do_not_share_memory() -> None:
    """A store into memory that the call before has just written would go no further than the cache."""
    addresses = []

    def call() -> torch.Tensor:
        result = torch.empty(1 << 16)
        addresses.append(result.data_ptr())
        return result

    measure.interleave({"call": call}, 1, torch.device("cpu"), 0.01)
    assert len(addresses) > 1 and all(one != next for one, next in itertools.pairwise(addresses))


def test_fp8_runs_where_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere the report has the reason, and nothing counts as wrong."""
    setting = Setting(tmp_path, "reference", dry=True, seconds=0.01)
    try:
        names = [name for name, _ in compiled_models.items(setting)]
        assert "model, B=1, FP8, max-autotune-no-cudagraphs" in names
        monkeypatch.setattr(compiled_models, "why_not_float8", lambda device: "its compute capability is 8.6")
        *_, (name, rows) = compiled_models.items(setting)
    finally:
        ht.set_backend(None)
    document = {
        "status": "done",
        "seconds": 1.0,
        "machine": machine.facts(True),
        "items": [{"item": name, "rows": rows()}],
    }
    lines = report.table({"compiled-models": document})
    assert "model in FP8: not run: its compute capability is 8.6" in lines
    assert not [line for line in report.wrong({"compiled-models": document}) if "FP8" in line]


def test_what_is_compiled_again_is_not_timed(tmp_path: Path) -> None:
    """After a few shapes torch.compile would run the published code eagerly and say nothing."""
    setting = Setting(tmp_path, "reference", True, 0.01)
    with baselines.compiled(torch.nn.Linear(4, 4), "default", setting) as compiled, torch.no_grad():
        compiled(torch.randn(2, 4))
        with pytest.raises(torch._dynamo.exc.RecompileError):
            compiled(torch.randn(3, 4))


def test_a_wrong_result_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = correctness.ht_adapter
    monkeypatch.setattr(correctness, "ht_adapter", lambda x, *rest, **more: right(x, *rest, **more) * 1.01)
    rows = correctness.check(("hybrid", 1, 32, 8, (2, 3), 1), 0, Setting(tmp_path, "reference", True, 0.01))
    assert not any(row["passed"] for row in rows)
    document = {"status": "done", "seconds": 1.0, "machine": None, "items": [{"item": "a", "rows": rows}]}
    assert len(report.wrong({"cuda-correctness": document}, cut_off=False)) == len(rows) == 4


def test_a_wrong_mask_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of two pixels of a row exchanged, and of a mask that was not written; not of the right one."""
    right, setting, shape = masks.grid_to_mask, Setting(tmp_path, "reference", True, 0.01), (2, (20, 31), 3)
    assert all(row["passed"] and row["error"] < 1e-6 for row in masks.check(shape, 0, setting))
    for wrong in (lambda mask: mask.roll(1, -1), lambda mask: torch.full_like(mask, 255)):
        monkeypatch.setattr(
            masks, "grid_to_mask", lambda *arguments, wrong=wrong, **more: wrong(right(*arguments, **more))
        )
        assert not any(row["passed"] for row in masks.check(shape, 0, setting))


def test_a_section_in_which_nothing_ran_is_wrong() -> None:
    row = {"kind": "check", "what": "w", "dtype": "float32", "backend": "cuda", "skipped": "no kernels"}
    document = {"status": "done", "seconds": 1.0, "machine": None, "items": [{"item": "a", "rows": [row, row]}]}
    assert report.wrong({"cuda-correctness": document}, cut_off=False) == ["cuda-correctness: nothing ran: no kernels"]


def test_the_published_code_in_16_bits_only_adds_the_cast() -> None:
    torch.manual_seed(0)
    adapter = published.HybridAdapter(32, 8).eval()
    x = torch.randn(2, 7, 32)
    low = low_precision.in_dtype(adapter, torch.bfloat16)
    with torch.no_grad():
        out = low(x.bfloat16(), (2, 3)).float()
        torch.testing.assert_close(out, adapter(x, (2, 3)), rtol=0.05, atol=0.05)
        low.to(torch.float32).load_state_dict(
            {k.replace("adapter_conv.", "adapter_conv.conv."): t for k, t in adapter.state_dict().items()}
        )
        torch.testing.assert_close(low(x, (2, 3)), adapter(x, (2, 3)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "needs an NVIDIA GPU" in refused("--output", tmp_path / "out") and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "everything"), "invalid choice: 'everything'"),
        (("--budget", "0"), "must be a number of seconds above 0, got 0"),
        (("--budget", "nan"), "must be a number of seconds above 0, got nan"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run("--output", tmp_path / "out", "--dry-run", *arguments)
    assert done.returncode == 2 and message in done.stderr and not (tmp_path / "out").exists()


def test_results_in_a_file(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "out").write_text("mine")
    for output in (tmp_path / "out", tmp_path / "out" / "deeper"):
        said = refused("--output", output, "--dry-run")
        assert "cannot hold results" in said and "Traceback" not in said
    assert (tmp_path / "out").read_text() == "mine"
