"""The modules inside an adapter: whether they still compute what the kernels compute in their place."""

from __future__ import annotations

from typing import Any

from torch import nn

from ht_kernels.backends import torch_private
from ht_kernels.folding import WEIGHT_HOOKS

_FREE = "eps", "p", "inplace"
"""Constants of modules that may change, because every call reads them or they do not matter."""


def kinds(adapter: nn.Module) -> dict[str, tuple[Any, ...]]:
    """What each module inside an adapter is, by name: its class, its constants, and which weights it does not have."""
    return {name: _kind(module) for name, module in adapter.named_modules() if name and "parametrizations" not in name}


def _kind(module: Any) -> tuple[Any, ...]:
    form = type(module)
    if "parametrizations" in module._modules:  # torch made a class for this module alone
        form = form.__base__
    constants = getattr(form, "__constants__", ())
    missing = (name for name, parameter in module._parameters.items() if parameter is None)
    return form, *(getattr(module, name) for name in constants if name not in _FREE), *missing


class Inside:
    """The modules inside an adapter, looked at once, and what has to be asked on every call."""

    def __init__(self, adapter: nn.Module, expected: dict[str, tuple[Any, ...]]) -> None:
        self.known = kinds(adapter) == expected
        self.modules = [module for name, module in adapter.named_modules() if name and "parametrizations" not in name]
        self.children = [(module, dict(module._modules)) for module in (adapter, *self.modules) if module._modules]

    def is_current(self) -> bool:
        """Whether the modules are still the same."""
        return all(module._modules == children for module, children in self.children)

    def is_left_out(self) -> bool:
        """Whether the kernels may compute in the place of the modules, which are then not called.

        They may not if a module has hooks, other than those that compute a weight, or a replaced forward, if there are
        hooks for all modules, or if a module is not what it was when the adapter was made.
        """
        if not self.known or torch_private.has_global_hooks():
            return False
        for module in self.modules:
            if module._forward_hooks or module._backward_hooks or module._backward_pre_hooks:
                return False
            before = module._forward_pre_hooks
            if before and not all(isinstance(hook, WEIGHT_HOOKS) for hook in before.values()):
                return False
            if "forward" in vars(module):
                return False
        return True
