"""The backends, best first, and the choice between them.

A backend is a module with ``can_run(case)``: None when it can, else the reason in words. The same reason serves the
automatic choice (logged with ``HT_KERNELS_LOG=debug``) and the error when a caller asked for that backend by name.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ht_kernels.errors import BackendError, InputError

from . import cpu, cuda, triton

log = logging.getLogger("ht_kernels")


def _log_to_stderr(level: str) -> None:
    """What ``HT_KERNELS_LOG=debug`` asks for."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("ht_kernels: %(message)s"))
    log.addHandler(handler)
    if level.upper() in ("DEBUG", "INFO", "WARNING", "ERROR"):
        log.setLevel(level.upper())
    else:
        log.warning("HT_KERNELS_LOG is '%s', expected debug, info, warning or error", level)


if os.environ.get("HT_KERNELS_LOG"):
    _log_to_stderr(os.environ["HT_KERNELS_LOG"])


@dataclass(frozen=True)
class Case:
    """What a backend needs to know to say whether it can run one adapter call."""

    device: torch.device
    dtype: torch.dtype
    dim: int
    bottleneck: int
    grid: tuple[int, int]
    prefix_tokens: int
    needs_grad: bool  # or dropout, which only training has
    spectral: bool = False
    keeps: bool = False  # the caller brings dropout factors


@dataclass(frozen=True)
class FilterCase:
    """The same for one call of the spectral filter."""

    device: torch.device
    dtype: torch.dtype
    grid: tuple[int, int]
    needs_grad: bool


def _reference_can_run(case: Case | FilterCase) -> str | None:
    return None


CAN_RUN: dict[str, Callable[[Case], str | None]] = {
    "cuda": cuda.can_run,
    "cpu": cpu.can_run,
    "triton": triton.can_run,
    "reference": _reference_can_run,
}
"""Every backend by name, best first."""

CAN_FILTER: dict[str, Callable[[FilterCase], str | None]] = {
    "cuda": cuda.can_filter,
    "cpu": cpu.can_filter,
    "triton": triton.can_filter,
    "reference": _reference_can_run,
}
"""The same for the spectral filter by itself."""

_forced: str | None = None
_retired: dict[tuple[str, torch.device], str] = {}
_retiring = threading.Lock()


def set_backend(name: str | None) -> None:
    """Use backend ``name`` for every call, or choose automatically again with None.

    Overrides the environment variable ``HT_KERNELS_BACKEND``. A backend chosen by name never falls back.

    Raises:
        ValueError: no backend has that name.
    """
    global _forced
    _forced = _known(name)


def available_backends() -> list[str]:
    """Names of the backends that can run a plain float32 adapter on some device here, best first."""
    devices = [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
    cases = [Case(device, torch.float32, 768, 64, (14, 14), 1, False) for device in devices]
    return [name for name, can_run in CAN_RUN.items() if any(can_run(case) is None for case in cases)]


def choose(case: Case | FilterCase, asked: str | None = None) -> str:
    """The backend for ``case``: ``asked``, what :func:`asked_for` says, else the best that can run it.

    Raises:
        BackendError: a backend asked for by name cannot run the case; the message says why.
    """
    table: dict[str, Callable[[Any], str | None]] = CAN_FILTER if isinstance(case, FilterCase) else CAN_RUN
    if asked is not None:
        reason = table[asked](case)
        if reason is not None:
            raise BackendError(f"backend '{asked}' was asked for by name but cannot run this call: {reason}")
        return asked
    for candidate, can_run in table.items():
        reason = _retired.get((candidate, case.device)) or can_run(case)
        if reason is None:
            _debug("%s: chosen for %s", candidate, case)
            return candidate
        _debug("%s: not used: %s", candidate, reason)
    raise AssertionError("the reference backend runs every case")


def asked_for(name: str | None = None) -> str | None:
    """The backend that the caller, or the process, asked for by name; None when the choice is ours.

    Raises:
        ValueError: the name is unknown.
    """
    return _known(name or _forced or os.environ.get("HT_KERNELS_BACKEND") or None)


def retire(name: str, device: torch.device, reason: str) -> None:
    """Do not choose backend ``name`` on ``device`` any more, because it failed there; says so once."""
    with _retiring:
        if (name, device) in _retired:
            return
        _retired[name, device] = reason
    log.warning("backend '%s' failed on %s and is not used there any more: %s", name, device, reason)


def retired_count() -> int:
    """How many backends have been retired, each on one device."""
    return len(_retired)


def _debug(message: str, *args: object) -> None:
    if not torch.compiler.is_compiling():  # logging would break the graph
        log.debug(message, *args)


def _known(name: str | None) -> str | None:
    if name is not None and name not in CAN_RUN:
        raise InputError(f"unknown backend '{name}', expected one of {', '.join(CAN_RUN)}")
    return name
