"""The dispatch: the only place that chooses a backend for a call, tries it, and falls back to another one.

The environment variable ``HT_KERNELS_BACKEND``, read once at import, names the backend to use for every call. At level
``debug`` the log says which backend was chosen and why the others were not.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

from ht_kernels.backends import cpu, cuda, reference
from ht_kernels.backends.call import Case, FilterCase, Layout, MaskCase
from ht_kernels.backends.triton import backend as triton
from ht_kernels.errors import BackendError, InputError
from ht_kernels.folding import FoldedAdapter
from ht_kernels.log import log

from . import prepared

_T = TypeVar("_T")
AnyCase = Case | FilterCase | MaskCase

BACKENDS: dict[str, ModuleType] = {"cuda": cuda, "cpu": cpu, "triton": triton, "reference": reference}
"""All backends by name, best first."""


class Choices:
    """The state, other than the call itself, on which the choice of a backend depends."""

    def __init__(self) -> None:
        self.asked = os.environ.get("HT_KERNELS_BACKEND") or None
        """The name of the backend that the process asked for, or None."""
        self.retired: dict[tuple[str, torch.device], str] = {}
        """For each backend that failed on a device and is not used there, the reason."""
        self.count = 0
        """The number of changes to the two above, and of calls that ran out of memory."""
        self.lock = threading.Lock()  # held while one of the three is changed


choices = Choices()


def set_backend(name: str | None) -> None:
    """Use the backend ``name`` for every call. With None, a backend is chosen automatically for each call.

    This overrides the environment variable ``HT_KERNELS_BACKEND``. If a backend set by name cannot run a call, the call
    raises; it does not fall back to another backend.

    Raises:
        ValueError: no backend has this name.
    """
    asked = _known(name)
    with choices.lock:
        choices.asked = asked
        choices.count += 1


def available_backends() -> list[str]:
    """The names of the backends that can run a plain float32 adapter on a device of this machine, best first."""
    devices = [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
    cases = [Case(device, torch.float32, 768, 64, (14, 14), 1, False) for device in devices]
    return [name for name, backend in BACKENDS.items() if any(backend.can_run(case) is None for case in cases)]


def asked_for(name: str | None = None) -> str | None:
    """The name of the backend that the caller (``name``) or the process asked for; None for an automatic choice.

    Raises:
        ValueError: no backend has this name.
    """
    if name is None:
        return _known(choices.asked, " in HT_KERNELS_BACKEND")  # set_backend has checked the name that it set
    return _known(name)


def choose(case: AnyCase, asked: str | None = None, without: Collection[str] = ()) -> str:
    """Choose the backend for ``case``: ``asked``, or, if that is None, the best backend that can run the case.

    The automatic choice leaves out backends that failed on the device, and those in ``without``.

    Raises:
        BackendError: the backend ``asked`` cannot run the case; the message says why.
    """
    if asked is not None:
        why_not = reason(asked, case._replace(named=True))
        if why_not is not None:
            raise BackendError(f"backend '{asked}' was asked for by name but cannot run this call: {why_not}")
        return asked
    for name in BACKENDS:
        if name in without:
            continue
        why_not = choices.retired.get((name, case.device)) or reason(name, case)
        if why_not is None:
            debug("%s: chosen for %s", name, case)
            return name
        debug("%s: not used: %s", name, why_not)
    raise AssertionError("the reference backend runs every case")


def infer(
    case: Case,
    asked: str | None,
    x: Tensor,
    folded: FoldedAdapter,
    layout: Layout,
    autocast: bool,
    norm_eps: float | None = None,
) -> Any:
    """Compute the adapter without gradients, with the choice and fallback of :func:`run`: out, or with ``norm_eps`` out
    and its LayerNorm.

    The backend is remembered for later calls of the same kind, unless the caller named it.
    """
    count = choices.count if asked == choices.asked else None
    return run(case, asked, lambda name: prepared.infer(BACKENDS[name], x, folded, layout, autocast, count, norm_eps))


def run(case: AnyCase, asked: str | None, attempt: Callable[[str], _T]) -> _T:
    """Return ``attempt(name)``, where ``name`` is the backend for ``case``.

    If the backend fails, it is retired on the device of the case, and the next backend is tried. If it runs out of
    memory, it is skipped for this call only. A backend that was ``asked`` for by name raises instead.

    Raises:
        BackendError: the backend ``asked`` cannot run the case, or failed.
        OutOfMemoryError: the backend ``asked``, or the reference backend, ran out of memory.
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
                with choices.lock:
                    choices.count += 1  # so that the fallback is not remembered for calls of this kind
                log.warning("backend '%s' found too little memory for this call: %s", name, error)


def retire(name: str, device: torch.device, why_not: str) -> None:
    """Stop using the backend ``name`` on ``device``, because it failed there, and warn about it once."""
    with choices.lock:
        if (name, device) in choices.retired:
            return
        choices.retired[name, device] = why_not
        choices.count += 1
    log.warning("backend '%s' failed on %s and is not used there any more: %s", name, device, why_not)


def reason(name: str, case: AnyCase) -> str | None:
    """The reason why a backend cannot run a case, or None if it can."""
    backend = BACKENDS[name]
    if isinstance(case, MaskCase):
        can: Callable[[AnyCase], str | None] = backend.can_mask
    else:
        can = backend.can_filter if isinstance(case, FilterCase) else backend.can_run
    return can(case)


def debug(message: str, *args: object) -> None:
    """Write a line to the log, except while torch.compile traces."""
    if not torch.compiler.is_compiling():  # logging would break the graph
        log.debug(message, *args)


def _known(name: str | None, where: str = "") -> str | None:
    if name is not None and name not in BACKENDS:
        raise InputError(f"unknown backend '{name}'{where}, expected one of {', '.join(BACKENDS)}")
    return name
