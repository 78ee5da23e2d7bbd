"""The command line as a whole: help, examples, files of options, completion, interrupts and closed pipes."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import ht_kernels
from ht_kernels import cli
from ht_kernels.cli import COMMANDS, config, main, parse, parser
from ht_kernels.errors import did_you_mean
from ht_kernels.train.recipe import named_recipe

BY_NAME = parser.build(COMMANDS)[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_is_a_command(command: str) -> None:
    """It stands in the help and can be parsed."""
    example = re.search(r"example:\n  (ht-kernels .*)\n", BY_NAME[command].format_help())
    assert example is not None
    words = shlex.split(example[1])[1:]
    assert words[0] == command and parse(words).command == command


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    assert [action.dest for action in BY_NAME[command]._actions if not action.help] == []


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"ht-kernels {ht_kernels.__version__}\n"


def test_the_help_of_train_has_the_values_of_the_recipes() -> None:
    said = " ".join(BY_NAME["train"].format_help().split())
    ours, published = named_recipe("ours", "segmentation"), named_recipe("published", "segmentation")
    assert f"passes over the training split (default: ours {ours.epochs}, published {published.epochs};" in said
    assert f"ours {ours.learning_rate:g}, published {published.learning_rate:g}" in said


def test_did_you_mean() -> None:
    assert did_you_mean("busi", ["BUSI", "TN3K"]) == "; did you mean BUSI?"
    assert did_you_mean("heart", ["BUSI", "TN3K"]) == ""


def settings(words: str) -> dict[str, object]:
    return yaml.safe_load(parse(shlex.split(words)).settings)


@pytest.mark.parametrize(
    "words",
    [
        "train data --task segmentation --dataset BUSI --output run --feature-layers 3 6 --clip 1e-5 --skip-bad",
        "evaluate breast data --dataset BUSI 'a, b: c' --output out --image-size 224",
        "export breast --output m.engine --format tensorrt-rtx --target sm_86 --target sm_120 --batch 1:4:16",
        "stream 'a #1.dcm' --checkpoint breast --smooth 0.5 --dicom-seg --measure --spacing 0.1,0.2 --precision fp16",
        "phantom --output out --count 3 --clip 12 --sector",
        "bench --shape 1,2,3,4 --grid 1,1 --output out --stages",
        "bench --compare a.json b.json",
    ],
)
def test_settings_repeat_a_run(words: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    first = parse(shlex.split(words))
    path.write_bytes(first.settings)
    again = parse([first.command, "--config", str(path)])
    assert vars(again) | {"config": None} == vars(first)


def test_the_command_line_counts_more(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("input: a.dcm\nsmooth: 0.5\nprecision: bf16\nunfamiliar: outline\n")
    args = parse(["stream", "b.dcm", "--config", str(path), "--smooth", "0.7"])
    assert (args.input, args.smooth, args.precision, args.unfamiliar) == ("b.dcm", 0.7, "bf16", "outline")
    path.write_text("target: [sm_80, sm_86]\noutput: m.engine\nbatch: 1:4:16\nprecision: fp16\nplugin: false\n")
    args = parse(["export", "breast", "--target", "sm_90", "--config", str(path)])
    assert args.target == ["sm_90"] and args.batch == "1:4:16" and not args.plugin
    path.write_text("task: segmentation\noutput: run\nprecision: no\nfeature_layers: [3, 6]\n")
    args = parse(["train", "--phantoms", "3", "--config", str(path), "--", "data"])
    assert (args.precision, args.feature_layers, args.data) == ("no", [3, 6], Path("data"))


def test_several_positional_arguments(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("files: [a.png, b.png]")
    for words, expected in (
        (["--config", str(path)], ["a.png", "b.png"]),
        (["c.png", "--config", str(path)], ["c.png"]),
    ):
        several = parser.Parser(prog="several")
        several.add_argument("files", nargs="+", type=Path)
        config.add_argument(several)
        words = config.with_config(words, several)
        assert several.parse_args(words).files == [Path(name) for name in expected]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("epoch: 3", "has 'epoch', which is no option of ht-kernels train; did you mean epochs?"),
        ("epochs: many", "argument --epochs: invalid int value: 'many'"),
        ("task: segmenting", "'segmenting' is unknown; expected one of .*; did you mean segmentation?"),
        ("skip-bad: 3", "has '3' for skip-bad, expected true or false"),
        ("epochs: [1, 2]", "has several values for epochs, expected one"),
        ("config: other.yaml", "has 'config', which is no option"),
        ("- epochs", "expected lines of an option's name, a colon and its value"),
        ("epochs: [", "is no YAML file"),
        ("epochs: &a [*a]", "is no YAML file"),
    ],
)
def test_a_file_of_options_that_does_not_fit(
    content: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(content)
    try:
        status = main(["train", "--output", "run", "--config", str(path)])
    except SystemExit as ended:
        status = ended.code
    assert status == 2 and re.search(sentence.replace("?", r"\?"), capsys.readouterr().err)


def test_no_password_is_kept() -> None:
    assert settings("stream rtsp://me:secret@scanner/live")["input"] == "rtsp://scanner/live"
    assert "overwrite" not in settings("phantom --output a --overwrite")


def test_only_commands_that_take_settings_have_the_option() -> None:
    for name, subparser in BY_NAME.items():
        assert ("--config" in subparser.format_help()) == (name in config.COMMANDS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "evaluate" in script and "noise_aware" in script
    if shell == "bash":
        files, folders = (re.findall(rf"_compgen_{kind}", script) for kind in ("COMPGEN_FILES", "COMPGEN_DIRS"))
        assert "--checkpoint" in script and (files or "compgen -f" in script) and (folders or "compgen -d" in script)


COMMAND = [sys.executable, "-c", "import ht_kernels_command; raise SystemExit(ht_kernels_command.main())"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": ""}


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["completion", "bash"]])
def test_a_closed_pipe_is_no_error(words: list[str]) -> None:
    if words[0] == "completion":
        pytest.importorskip("shtab")
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run([*COMMAND, *words], stdout=writes, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True)
    os.close(writes)
    assert done.returncode == 141 and done.stderr == ""


@pytest.mark.parametrize("module", ["ht_kernels.cli", "ht_kernels.errors", "torch"])
def test_an_interrupt_while_modules_are_imported(module: str, tmp_path: Path) -> None:
    """Ctrl-C comes as the import of a module begins."""
    code = (
        "import signal, sys, ht_kernels_command\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background has it ignored
        "class Interrupts:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "raise SystemExit(ht_kernels_command.main())\n"
    )
    words = ["inspect", "breast", "--output", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *words], env=ENVIRONMENT, capture_output=True, text=True)
    said = re.fullmatch(r"ht-kernels(: interrupted| inspect: interrupted; nothing was written)\n", done.stderr)
    assert done.returncode == 130 and said, done.stderr


def test_what_the_system_refuses_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> int:
        raise PermissionError(13, "Permission denied", "a/file")

    monkeypatch.setattr("ht_kernels.cli.info.run", run)
    assert cli.main(["info"]) == 2
    assert capsys.readouterr().err == "ht-kernels info: a/file cannot be read or written: Permission denied\n"
