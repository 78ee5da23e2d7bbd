"""What commands say while they work: how far they are, at what rate, and how to go on after an interrupt."""

from __future__ import annotations

import errno
import io
import re
import sys
from pathlib import Path

import pytest

from helpers.layout import disc, make_layout, picture, save
from ht_kernels.cli import main, terminal
from ht_kernels.data.prepare import prepare
from ht_kernels.progress import watched
from ht_kernels.train import Trainer
from ht_kernels.weights import PHANTOM

pytestmark = pytest.mark.usefixtures("one_thread")


class Screen(io.StringIO):
    """A terminal to write on."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that is put forward by hand."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(terminal, "time", clock)
    return clock


def test_plain_lines_are_few(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """One at the end, and one in 15 seconds before, with the rate and the time that remains."""
    with terminal.track() as watch:
        for done in range(1, 101):
            clock.now += 0.5
            watch("reading", done, 100)
        watch("writing", 1, 2)
        watch("writing", 2, 2)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 30 of 100, 2 a second, 35 s left",
        "reading: 60 of 100, 2 a second, 20 s left",
        "reading: 90 of 100, 2 a second, 5 s left",
        "reading: 100 of 100, 2 a second",
        "writing: 2 of 2",
    ]


def test_slow_work(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.track() as watch:
        for done in range(5, 8):
            watch("training", done, 1000)
            clock.now += 20
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "training: 6 of 1000, 20 s each, 5 h 31 min left",
        "training: 7 of 1000, 20 s each, 5 h 31 min left",
    ]


def test_a_bar_moves_in_a_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with terminal.track() as watch:
        assert screen.getvalue() == "", "an empty bar says nothing"
        for done in (10, 20, 30):
            clock.now += 1
            watch("epoch 1, loss [0.5]", done, 100)
    words = re.sub(r"\x1b\[[0-9;?]*\w", "", screen.getvalue())
    assert "epoch 1, loss [0.5]" in words and "30 of 100, 10 a second, 7 s left" in words and "━" in words


def test_what_is_watched_counts_when_the_next_is_asked_for() -> None:
    said: list[tuple[str, int, int]] = []
    for thing in watched("ab", "spelling", lambda *state: said.append(state)):
        assert len(said) == "ab".index(thing)
    assert said == [("spelling", 1, 2), ("spelling", 2, 2)]


def test_commands_say_how_far_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(tmp_path / "data")
    assert main(["phantom", "--output", data, "--count", "10", "--size", "64"]) == 0
    assert "simulating images: 10 of 10" in capsys.readouterr().err
    assert main(["phantom", "--output", str(tmp_path / "clips"), "--count", "2", "--clip", "3", "--size", "64"]) == 0
    assert "simulating frames: 6 of 6" in capsys.readouterr().err
    where = [data, "--dataset", "PHANTOM"]
    options = ["--from", str(PHANTOM), "--image-size", "64", "--epochs", "2", "--batch", "4", "--method", "heads"]
    assert main(["train", "--task", "segmentation", *where, "--output", str(tmp_path / "out"), *options]) == 0
    said = capsys.readouterr().err
    assert "reading images: 7 of 7" in said and re.search(r"epoch 2 of 2, loss [\d.]+: 14 of 14", said)
    assert len(said.splitlines()) < 10, "a line is for many images"
    assert main(["evaluate", str(PHANTOM), *where, "--split", "all", "--output", str(tmp_path / "all")]) == 0
    said = capsys.readouterr().err
    assert all(f"{what} images: 10 of 10" in said for what in ("reading", "running", "measuring"))


def test_a_preparation_says_how_far_it_is(tmp_path: Path) -> None:
    for i in range(12):
        part = "trainval" if i < 9 else "test"
        save(tmp_path / f"in/{part}-image/{i:04}.jpg", picture(i))
        save(tmp_path / f"in/{part}-mask/{i:04}.jpg", disc(i) * 255)
    said: list[tuple[str, int, int]] = []
    prepare("tn3k", tmp_path / "in", tmp_path / "out", watch=lambda *state: said.append(state))
    assert said[:1] == [("reading images", 1, 12)] and said[-1][0] == "writing images"


@pytest.mark.parametrize(("ended", "words"), [(0, "nothing is saved yet"), (2, "goes on from epoch 3.")])
def test_an_interrupted_training_says_how_to_go_on(
    ended: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in an epoch that was trained and not saved."""
    root, validate = make_layout(tmp_path / "data"), Trainer._validate

    def interrupted(self: Trainer) -> dict[str, float]:
        if self.epoch > ended:
            raise KeyboardInterrupt
        return validate(self)

    where = [str(root), "--dataset", "BUSI", "--output", str(tmp_path / "out"), "--from", str(PHANTOM)]
    command = ["train", "--task", "segmentation", *where, "--method", "heads", "--epochs", "4", "--batch", "4"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_validate", interrupted)
        assert main(command) == 130
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said
    if ended:
        assert main(command) == 0
        assert "epoch 3 of 4" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "bench"])
def test_an_output_that_cannot_be_is_refused_before_the_work(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ht_kernels.bench.runner.run", lambda *_, **__: pytest.fail("it was measured"))
    words = {"train": ["--task", "segmentation", "--phantoms", "1", "--from", "phantom"], "bench": ["--quick"]}
    (tmp_path / "file").write_text("")
    for output, expected in (("file", "is a file, expected a"), ("file/out/in", "Not a directory")):
        assert main([command, *words[command], "--output", str(tmp_path / output)]) == 2
        assert expected in capsys.readouterr().err


def test_one_process_of_a_training_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    with terminal.track() as watch:
        watch("reading", 2, 2)
    assert capsys.readouterr().err == ""


def test_a_pipe_that_is_closed_ends_a_command_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the words about it go into the same pipe."""

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Closed())
    monkeypatch.setattr(sys, "stderr", Closed())
    assert main(["info"]) == 141
