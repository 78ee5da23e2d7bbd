"""Which backend runs a call: the one place that chooses, tries, retires and falls back.

It reads two environment variables, once: ``HT_KERNELS_BACKEND`` names the backend to use for every call, and
``HT_KERNELS_LOG`` is the level of what is said on stderr: with ``debug`` which backend was chosen, and why not the
others.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor

from ht_kernels.backends import cpu, cuda, reference
from ht_kernels.backends.call import Case, FilterCase, Layout
from ht_kernels.backends.triton import backend as triton
from ht_kernels.errors import BackendError, InputError
from ht_kernels.folding import FoldedAdapter

from . import prepared

log = logging.getLogger("ht_kernels")
_T = TypeVar("_T")

BACKENDS: dict[str, ModuleType] = {"cuda": cuda, "cpu": cpu, "triton": triton, "reference": reference}
"""Every backend by name, best first."""


class Choices:
    """What a choice depends on beside the call."""

    def __init__(self) -> None:
        self.asked = os.environ.get("HT_KERNELS_BACKEND") or None
        """The backend that the process asked for by name."""
        self.retired: dict[tuple[str, torch.device], str] = {}
        """Why a backend is not used on a device any more."""
        self.count = 0
        """How often one of these changed."""
        self.lock = threading.Lock()


choices = Choices()


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("ht_kernels: %(message)s"))
    log.addHandler(handler)
    if level.upper() in ("DEBUG", "INFO", "WARNING", "ERROR"):
        log.setLevel(level.upper())
    else:
        log.warning("HT_KERNELS_LOG is '%s', expected debug, info, warning or error", level)


if os.environ.get("HT_KERNELS_LOG"):
    _log_to_stderr(os.environ["HT_KERNELS_LOG"])


def set_backend(name: str | None) -> None:
    """Use backend ``name`` for every call, or choose automatically again with None.

    Overrides the environment variable ``HT_KERNELS_BACKEND``. A backend chosen by name never falls back.

    Raises:
        ValueError: no backend has that name.
    """
    choices.asked = _known(name)
    choices.count += 1


def available_backends() -> list[str]:
    """Names of the backends that can run a plain float32 adapter on some device here, best first."""
    devices = [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
    cases = [Case(device, torch.float32, 768, 64, (14, 14), 1, False) for device in devices]
    return [name for name, backend in BACKENDS.items() if any(backend.can_run(case) is None for case in cases)]


def asked_for(name: str | None = None) -> str | None:
    """The backend that the caller, or the process, asked for by name; None when the choice is ours.

    Raises:
        ValueError: the name is unknown.
    """
    return _known(name or choices.asked)


def choose(case: Case | FilterCase, asked: str | None = None, without: Collection[str] = ()) -> str:
    """The backend for ``case``: ``asked``, or for None the best that can run it, has not failed and is not ``without``.

    Raises:
        BackendError: a backend asked for by name cannot run the case; the message says why.
    """
    if asked is not None:
        reason = _reason(asked, case._replace(named=True))
        if reason is not None:
            raise BackendError(f"backend '{asked}' was asked for by name but cannot run this call: {reason}")
        return asked
    for name in BACKENDS:
        if name in without:
            continue
        reason = choices.retired.get((name, case.device)) or _reason(name, case)
        if reason is None:
            _debug("%s: chosen for %s", name, case)
            return name
        _debug("%s: not used: %s", name, reason)
    raise AssertionError("the reference backend runs every case")


def infer(case: Case, asked: str | None, x: Tensor, folded: FoldedAdapter, layout: Layout, autocast: bool) -> Tensor:
    """The adapter without gradients, as :func:`run` does it.

    Who ran it is remembered for calls like it, unless the caller named the backend.
    """
    count = choices.count if asked == choices.asked else None
    return run(case, asked, lambda name: prepared.infer(BACKENDS[name], x, folded, layout, autocast, count))


def run(case: Case | FilterCase, asked: str | None, attempt: Callable[[str], _T]) -> _T:
    """``attempt(name)`` with the backend for ``case``.

    A backend that fails is retired on that device, one that finds too little memory is passed over in this call, and
    the next takes over; a backend that was ``asked`` for by name raises instead.

    Raises:
        BackendError: the one asked for cannot run the case, or failed.
        OutOfMemoryError: it, or the reference, found too little memory.
    """
    failed: set[str] = set()
    while True:
        name = choose(case, asked, failed)
        try:
            return attempt(name)
        except (BackendError, torch.OutOfMemoryError) as error:
            if asked is not None or name == "reference":
                raise
            failed.add(name)
            if isinstance(error, BackendError):
                retire(name, case.device, str(error))
            else:
                choices.count += 1  # so that nobody remembers who serves this call
                log.warning("backend '%s' found too little memory for this call: %s", name, error)


def retire(name: str, device: torch.device, reason: str) -> None:
    """Do not choose backend ``name`` on ``device`` any more, because it failed there; says so once."""
    with choices.lock:
        if (name, device) in choices.retired:
            return
        choices.retired[name, device] = reason
        choices.count += 1
    log.warning("backend '%s' failed on %s and is not used there any more: %s", name, device, reason)


def _reason(name: str, case: Case | FilterCase) -> str | None:
    """Why a backend cannot run a case; None when it can."""
    backend = BACKENDS[name]
    reason: str | None = (backend.can_filter if isinstance(case, FilterCase) else backend.can_run)(case)
    return reason


def _debug(message: str, *args: object) -> None:
    if not torch.compiler.is_compiling():  # logging would break the graph
        log.debug(message, *args)


def _known(name: str | None) -> str | None:
    if name is not None and name not in BACKENDS:
        raise InputError(f"unknown backend '{name}', expected one of {', '.join(BACKENDS)}")
    return name
