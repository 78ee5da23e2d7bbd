"""``--config FILE``: options in a YAML file, and the options that a run had, as such a file beside its results."""

from __future__ import annotations

import argparse
import copy
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ht_kernels.errors import InputError, did_you_mean, reason
from ht_kernels.files import utf8, write_whole

if TYPE_CHECKING:
    from .parser import Parser

COMMANDS = ("train", "evaluate", "export", "stream", "phantom", "bench", "predict")
"""The commands that take a file of options."""

_OPTION = "--config"
_NOT_KEPT = ("help", "config", "overwrite")


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``."""
    parser.add_argument(
        _OPTION,
        type=Path,
        metavar="FILE",
        help="a YAML file with options of this command by their names, such as the settings.yaml of a run; options on "
        "the command line count more",
    )


def with_config(words: Sequence[str], parser: Parser) -> list[str]:
    """The words of a command, and those of the options in its ``--config`` that it does not give itself.

    The positional arguments in the file become the defaults of the parser.

    Raises:
        InputError: the file cannot be read, or names what is no option of the command.
    """
    if not any(len(word) > 3 and _OPTION.startswith(word.partition("=")[0]) for word in words):
        return list(words)
    given = _given(words, parser)
    path = given.get("config")
    if path is None:
        return list(words)
    actions = {_name(action): action for action in parser._actions if _name(action) not in _NOT_KEPT[:2]}
    added: list[str] = []
    for key, value in _read(path).items():
        name = key.replace("_", "-")
        if name not in actions:
            raise InputError(f"{path} has {key!r}, which is no option of {parser.prog}{did_you_mean(name, actions)}")
        action = actions[name]
        if action.dest in given:
            continue
        if action.option_strings:
            added += _words(path, action, value)
        elif action.nargs == "+":
            values = value if isinstance(value, list) else [value]
            convert = action.type if callable(action.type) else str
            action.nargs, action.required = "*", False
            action.default = [convert(_one(path, key, each)) for each in values]
        else:
            action.nargs, action.required, action.default = "?", False, _one(path, key, value)
    end = words.index("--") if "--" in words else len(words)
    return [*words[:end], *added, *words[end:]]


def settings(args: argparse.Namespace, parser: Parser) -> bytes:
    """The options of a run as ``--config`` takes them. Passwords in addresses are left out."""
    lines = [f"# {parser.prog} {_OPTION} FILE repeats this run."]
    for action in parser._actions:
        name, value = _name(action), getattr(args, action.dest, None)
        if name not in _NOT_KEPT and value is not None and value is not False and value != []:
            lines.append(f"{name}: {json.dumps(_plain(value), ensure_ascii=False)}")
    return utf8("\n".join(lines) + "\n")


def write(args: argparse.Namespace, path: Path) -> None:
    """Write the options of a run, which ``args.settings`` holds, beside its results.

    Raises:
        InputError: the file cannot be written.
    """
    write_whole(path, args.settings, "the settings")


def check_foreign(args: argparse.Namespace, path: Path) -> None:
    """Refuse to replace a file by the options of a run, unless a run of the same command wrote it.

    Raises:
        InputError: it is another file.
    """
    if os.path.lexists(path) and not written_by(args, path):
        raise InputError(f"{path} is there already, and is not of this command: move it, or name another output")


def written_by(args: argparse.Namespace, path: Path) -> bool:
    """Whether a file has the options of a run of this command, as its first line says."""
    settings: bytes = args.settings
    try:
        with path.open("rb") as file:
            return file.readline() == settings.splitlines(keepends=True)[0]
    except OSError:
        return False


def _given(words: Sequence[str], parser: Parser) -> dict[str, Any]:
    """The arguments that the words themselves give."""
    probe = copy.deepcopy(parser)
    probe._defaults.clear()
    for action in probe._actions:
        action.default, action.required = None, False
        if not action.option_strings:
            action.nargs = "*" if action.nargs == "+" else "?"
    found = vars(probe.parse_known_args(words)[0])
    return {name: value for name, value in found.items() if value is not None and value != []}


def _read(path: Path) -> dict[str, Any]:
    from ht_kernels.files import read_whole
    from ht_kernels.packages import import_package

    yaml = import_package("yaml", f"{_OPTION} needs PyYAML", "pyyaml")
    try:
        # Every scalar is a text, such as 1:4:16 and no, and the parser of the command converts it.
        content = yaml.load(read_whole(path, "the file of options"), yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is no YAML file: {reason(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path} came, expected lines of an option's name, a colon and its value, such as seed: 1")
    return content


def _words(path: Path, action: argparse.Action, value: Any) -> Iterator[str]:
    option = action.option_strings[0]
    if action.nargs == 0:
        if value not in ("true", "false"):
            raise InputError(f"{path} has {value!r} for {_name(action)}, expected true or false")
        if value == "true":
            yield option
    elif action.nargs is not None:
        yield option
        yield from (_one(path, _name(action), each) for each in (value if isinstance(value, list) else [value]))
    else:
        repeated = isinstance(action, argparse._AppendAction) and isinstance(value, list)
        yield from (f"{option}={_one(path, _name(action), each)}" for each in (value if repeated else [value]))


def _one(path: Path, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{path} has several values for {name}, expected one")
    return value


def _name(action: argparse.Action) -> str:
    return action.option_strings[-1].lstrip("-") if action.option_strings else action.dest


def _plain(value: Any) -> Any:
    """A value as JSON has it, which is YAML as well."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, str) and "://" in value and not value.startswith("dicom://"):  # which have no passwords
        from ht_kernels.video.live import without_password

        return without_password(value)
    return str(value) if isinstance(value, Path) else value
