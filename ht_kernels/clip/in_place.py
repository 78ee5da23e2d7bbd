"""Changing what modules of other code compute, in place: a forward of ours before that of their class."""

from __future__ import annotations

import copy
import functools
import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ht_kernels.folding import WEIGHT_HOOKS

_HOOKS = tuple(name for name in vars(nn.Module()) if "_hooks" in name)
"""The attributes in which a module keeps its hooks."""


class Changed(nn.Module):
    """A module that :func:`change` gave a forward of ours. It can be copied and pickled.

    Attributes named in ``of_this_model`` stay with the module, and its copies do not get them.
    """

    of_this_model: tuple[str, ...] = ()

    def __reduce_ex__(self, protocol: Any) -> Any:
        form, kind = type(self).__bases__
        state: Any = getattr(self, "__getstate__", lambda: vars(self))()  # every object has one from Python 3.11 on
        if isinstance(state, dict):
            state = {name: value for name, value in state.items() if name not in self.of_this_model}
        return _empty, (form, kind), state

    def _replicate_for_data_parallel(self) -> Any:
        replica: Any = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        for name in self.of_this_model:
            vars(replica).pop(name, None)
        return replica


def change(module: nn.Module, form: type[Changed]) -> None:
    """Put the forward of a class of ours before that of a module's own class, which it stays an instance of."""
    classes: Any = form, type(module)
    module.__class__ = _class(*classes)


@contextmanager
def quiet(model: nn.Module, training: bool) -> Iterator[None]:
    """Let a model run and be copied without hooks and dropout, in a mode. Hooks that compute a weight stay.

    Attributes, what the lists and dictionaries among them hold, buffers, and the random numbers of the CPU and of the
    model's GPUs are put back afterwards, also after an exception.
    """
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    kept = [(vars(module), dict(vars(module))) for module in model.modules()]
    containers = [(held, copy.copy(held)) for _, before in kept for held in before.values() if _is_container(held)]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        for attributes, before in kept:
            attributes["training"] = training
            attributes.update({name: _of_weights(before[name]) for name in _HOOKS})
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        with torch.random.fork_rng(devices):
            yield
    finally:
        for attributes, before in kept:
            for name in attributes.keys() - before.keys():
                del attributes[name]
            attributes.update(before)
        for held, content in containers:
            held.clear()
            (held.extend if isinstance(held, list) else held.update)(content)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def replaces_method(module: nn.Module, name: str, value: object) -> bool:
    """Whether an attribute of a module is a function in the place of a method of its class, other than torch's own.

    Torch's own methods, such as ``train``, play no part in a forward pass; ``forward`` itself does.
    """
    method = name == "forward" or not hasattr(nn.Module, name)
    return method and callable(value) and callable(getattr(type(module), name, None))


def replaced_method(module: nn.Module) -> str | None:
    """The name of a method in the place of which a module has a function; None if there is none."""
    return next((name for name, value in vars(module).items() if replaces_method(module, name, value)), None)


def relative_error(got: Any, expected: Tensor) -> float:
    """The relative L2 error in float64; infinite if ``got`` is no tensor of the shape of ``expected``."""
    if not isinstance(got, Tensor) or got.shape != expected.shape:
        return math.inf
    return float((got.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))


def _is_container(value: object) -> bool:
    return type(value) in (list, dict, set, OrderedDict)


def _of_weights(hooks: Any) -> Any:
    kept = {key: hook for key, hook in hooks.items() if isinstance(hook, WEIGHT_HOOKS)}
    return type(hooks)(kept)


@functools.cache
def _class(form: Any, kind: Any) -> Any:
    """The class with the forward of ``form`` before that of ``kind``, under the name of ``kind``."""
    return type(kind.__name__, (form, kind), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})


def _empty(form: Any, kind: Any) -> Any:
    """A changed module without any state, for copies."""
    made = _class(form, kind)
    return made.__new__(made)


def seed(device: torch.device) -> None:
    """Seed the random numbers of the CPU and of a device, but not those of other devices, as torch.manual_seed does."""
    torch.default_generator.manual_seed(0)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(0)
