"""Modules that are not called because kernels compute in their place: whether that is still right."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ht_kernels.backends import torch_private
from ht_kernels.folding import WEIGHT_HOOKS, adapter_weights, weight_holders

_log = logging.getLogger("ht_kernels")

_SHAPES = "in_channels", "out_channels", "kernel_size", "in_features", "out_features", "transposed", "output_padding"
_FREE = "eps", "p", "inplace", "training", *_SHAPES
"""Attributes of modules that may change: each call reads them, or no forward does, such as those that say a shape."""


class Kind(NamedTuple):
    """What a module is: its class, its attributes that are plain values, and which parameters it does not have."""

    form: type
    constants: dict[str, Any]
    missing: tuple[str, ...]


class Uncalled:
    """Modules that are not called, looked at once, and what has to be asked on every call.

    Args:
        modules: the modules.
        holders: modules whose children must stay the same too.
        allowed: hooks and replaced forwards that need not run.
    """

    def __init__(
        self, modules: Iterable[nn.Module], holders: Iterable[nn.Module] = (), allowed: Iterable[object] = ()
    ) -> None:
        self.modules = [(module, vars(module)) for module in modules]
        self.allowed = list(allowed)
        both = [*self.modules, *((module, vars(module)) for module in holders)]
        self.children = [(held, dict(held["_modules"])) for _, held in both if held["_modules"]]

    def is_current(self) -> bool:
        """Whether the modules still hold the same modules."""
        return all(held["_modules"] == children for held, children in self.children)

    def observed(self) -> nn.Module | None:
        """The first module whose call would run something else than its class's forward; None if there is none.

        That is a hook, unless it is one by which torch computes a weight, a hook for all modules, or a forward in the
        place of its class's.
        """
        if torch_private.has_global_hooks():
            return self.modules[0][0] if self.modules else None
        for module, held in self.modules:
            if (
                held["_forward_hooks"]
                or held["_forward_pre_hooks"]
                or held["_backward_hooks"]
                or held["_backward_pre_hooks"]
                or "forward" in held
            ) and self._is_observed(held):
                return module
        return None

    def _is_observed(self, held: dict[str, Any]) -> bool:
        kinds = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
        found = [hook for kind in kinds for hook in held[kind].values() if not isinstance(hook, WEIGHT_HOOKS)]
        found += [held["forward"]] if "forward" in held else []
        return any(all(each is not allowed for allowed in self.allowed) for each in found)


class Inside(Uncalled):
    """The modules inside an adapter.

    Args:
        adapter: the adapter.
        expected: what :func:`kinds` gave for the adapter when it was made.
    """

    def __init__(self, adapter: Any, expected: dict[str, Kind]) -> None:
        inside = dict(_inside(adapter))
        super().__init__(inside.values(), [adapter])
        self.called = list(inside.values())
        self.forms = list(map(type, self.called))
        found = kinds(adapter)
        self.known = found.keys() == expected.keys() and all(
            kind.form is expected[name].form and kind.missing == expected[name].missing for name, kind in found.items()
        )
        self.constants = [
            (vars(inside[place]), place, name, value)
            for place, kind in (expected.items() if self.known else ())
            for name, value in kind.constants.items()
        ]
        self.dropout = vars(adapter.dropout)
        self._places: list[tuple[str, dict[str, Any], str]] | None = None
        self._logged: str | None = None

    def is_current(self) -> bool:
        """Whether the modules still hold the same modules, and are of the same classes."""
        return super().is_current() and list(map(type, self.called)) == self.forms

    def may_be_left_out(self) -> bool:
        """Whether kernels may compute in the place of the modules; if not, the log says why, once for each reason.

        They may if the modules are those of before, with the constants of before, and are not observed.
        """
        reason = self._why_called()
        if reason is not None and reason != self._logged and not torch.compiler.is_compiling():
            self._logged = reason
            _log.info("an adapter is computed as published, without kernels: %s", reason)
        return reason is None

    def _why_called(self) -> str | None:
        for held, place, name, value in self.constants:
            if name not in held:
                return f"{place} has no {name}"
            if held[name] is not value and not _equal(held[name], value):
                return f"{name} of {place} is no longer {value!r}"
        if not self.known:
            return "a module inside was replaced, added or removed"
        observed = self.observed()
        return None if observed is None else f"a {type(observed).__name__} inside has hooks or a replaced forward"

    def weights(self, adapter: nn.Module) -> dict[str, Tensor]:
        """What :func:`ht_kernels.folding.adapter_weights` gives, faster where all weights are parameters.

        ``adapter`` is that of this object, which does not keep it, and :meth:`may_be_left_out` holds.
        """
        if torch.compiler.is_compiling():
            return adapter_weights(adapter)
        if self._places is None:
            self._places = [(n, vars(held), n.rpartition(".")[2]) for n, held in weight_holders(adapter).items()]
        found: dict[str, Any] = {name: held["_parameters"].get(key) for name, held, key in self._places}
        return adapter_weights(adapter) if any(t is None for t in found.values()) else found

    @property
    def dropping(self) -> float:
        """The probability with which the dropout drops now: 0 in evaluation mode, which it may have for itself."""
        return float(self.dropout["p"]) if self.dropout["training"] else 0.0


def kinds(adapter: nn.Module) -> dict[str, Kind]:
    """What each module inside an adapter is, by name."""
    return {name: _kind(module) for name, module in _inside(adapter)}


def _inside(adapter: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules inside an adapter by name, without parametrizations, which compute weights and are called."""
    return [(name, module) for name, module in adapter.named_modules() if name and "parametrizations" not in name]


def _kind(module: Any) -> Kind:
    form: Any = type(module)
    if "parametrizations" in module._modules:  # torch made a class for this module alone
        form = form.__base__
    constants = {
        name: value for name, value in vars(module).items() if name[0] != "_" and name not in _FREE and _is_plain(value)
    }
    return Kind(form, constants, tuple(name for name, p in module._parameters.items() if p is None))


def _equal(value: Any, constant: Any) -> bool:
    """Whether a value is that of a constant, also as a list; arrays and tensors are not, as they may be on a GPU."""
    if isinstance(value, list):
        value = tuple(value)
    return _is_plain(value) and bool(value == constant)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
