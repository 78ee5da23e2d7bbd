"""Modules that are not called because kernels compute in their place: whether that is still right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from ht_kernels.backends import torch_private
from ht_kernels.folding import WEIGHT_HOOKS

_FREE = "eps", "p", "inplace"
"""Constants of modules that may change, because every call reads them or they do not matter."""


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

    def __init__(self, adapter: nn.Module, expected: dict[str, tuple[Any, ...]]) -> None:
        super().__init__((module for name, module in _inside(adapter)), [adapter])
        self.known = kinds(adapter) == expected

    def may_be_left_out(self) -> bool:
        """Whether kernels may compute in the place of the modules: they are those of before, and not observed."""
        return self.known and self.observed() is None


def kinds(adapter: nn.Module) -> dict[str, tuple[Any, ...]]:
    """What each module inside an adapter is, by name: its class, its constants, and which weights it does not have."""
    return {name: _kind(module) for name, module in _inside(adapter)}


def _inside(adapter: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules inside an adapter by name, without parametrizations, which compute weights and are called."""
    return [(name, module) for name, module in adapter.named_modules() if name and "parametrizations" not in name]


def _kind(module: Any) -> tuple[Any, ...]:
    form: Any = type(module)
    if "parametrizations" in module._modules:  # torch made a class for this module alone
        form = form.__base__
    constants = getattr(form, "__constants__", ())
    missing = (name for name, parameter in module._parameters.items() if parameter is None)
    return form, *(getattr(module, name) for name in constants if name not in _FREE), *missing
