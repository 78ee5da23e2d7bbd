"""The drop-in: a model built by the published code gets this library's adapters, in place."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ht_kernels.nn import HTAdapter
from ht_kernels.published import VARIANTS, PublishedAdapter

from .mona import BatchFirstAdapter, SequenceFirstMona

_TOLERANCE = 1e-9
"""Relative L2 difference allowed in float64, where both ways of computing agree to rounding."""

_GRID, _BATCH = (3, 2), 2


class Swapped(NamedTuple):
    """An adapter that now runs on the kernels."""

    name: str
    variant: str
    dim: int
    bottleneck: int


class Left(NamedTuple):
    """A module that looks like an adapter and stays as it was."""

    name: str
    reason: str


class AccelerateReport(NamedTuple):
    """What :func:`accelerate` did; prints as a table.

    Attributes:
        swapped: adapters that now run on the kernels, by their names in the model.
        left: modules that look like adapters and stay as they were, with the reason in words.
    """

    swapped: tuple[Swapped, ...]
    left: tuple[Left, ...]

    def __str__(self) -> str:
        if not self.swapped and not self.left:
            return "No published adapters in this model."
        count = f"{len(self.swapped)} {'adapter' if len(self.swapped) == 1 else 'adapters'}"
        lines = [f"{count} swapped, {len(self.left)} left as they were"]
        lines += [f"  {s.name}: {s.variant}, {s.dim} -> {s.bottleneck}" for s in self.swapped]
        lines += [f"  {left.name}: left, {left.reason}" for left in self.left]
        return "\n".join(lines)


def accelerate(model: nn.Module) -> AccelerateReport:
    """Let the published adapters in a model run on this library's kernels.

    Adapters are recognised by their parameters, not by their classes, so the code that made them is not imported. An
    adapter stays the same object with the same Parameters, hooks and names; only its class changes. So optimizers
    made before, names and filters on names, and functions that hold the adapter all keep working. Each is
    compared with its own computation in float64 first, and left alone where the results differ.

    Args:
        model: anything that contains adapters: a CLIP model, a task model around it, a wrapper around that.

    Returns:
        What was swapped, and what was left and why.
    """
    swapped: list[Swapped] = []
    left: list[Left] = []
    for name, module in model.named_modules():
        if not _looks_like_adapter(module):
            continue
        if isinstance(module, HTAdapter):
            left.append(Left(name, "it runs on the kernels already"))
            continue
        variant = _variant(module)
        reason = variant if variant not in VARIANTS else _swap(module, variant)
        if reason:
            left.append(Left(name, reason))
        else:
            bottleneck, dim = module.project1.weight.shape
            swapped.append(Swapped(name, variant, dim, bottleneck))
    return AccelerateReport(tuple(swapped), tuple(left))


def _looks_like_adapter(module: nn.Module) -> bool:
    return all(isinstance(getattr(module, part, None), nn.Module) for part in ("project1", "project2", "adapter_conv"))


def _variant(module: Any) -> str:
    """The variant whose parameters a module has, or the reason why it has none's."""
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters(remove_duplicate=False)}
    weight = shapes.get("project1.weight", ())
    if len(weight) != 2:
        return "its project1 is not a Linear"
    bottleneck, dim = weight
    closest: tuple[int, str] | None = None
    for name, kind in VARIANTS.items():
        if kind.noise and bottleneck < 4:
            continue
        with torch.device("meta"):
            expected = {key: tuple(p.shape) for key, p in kind(dim, bottleneck).named_parameters()}
        if shapes == expected:
            return name
        wrong = sorted(key for key in expected.keys() | shapes.keys() if expected.get(key) != shapes.get(key))
        if closest is None or len(wrong) < closest[0]:
            words = [f"{key} is {shapes.get(key, 'missing')}, expected {expected.get(key, 'none')}" for key in wrong]
            closest = len(wrong), f"its parameters are not those of a published adapter: {'; '.join(words[:3])}"
    assert closest is not None
    return closest[1]


def _swap(module: Any, variant: str) -> str | None:
    """Change the class of a module to ours, or say why not."""
    if isinstance(module, torch.jit.ScriptModule):
        return "it is a TorchScript module"
    if "forward" in vars(module):
        return "its forward was replaced, so what it computes is not known"
    if any(p.is_meta for p in module.parameters()):
        return "its parameters have no values yet (device meta)"
    if not isinstance(module.norm, nn.LayerNorm) or not isinstance(getattr(module, "dropout", None), nn.Dropout):
        return "its norm is not a LayerNorm, or it has no Dropout"
    if next(module.buffers(), None) is not None:
        return "it has buffers, which a published adapter has not"
    try:
        theirs = copy.deepcopy(module).double().eval()
        for part in theirs.modules():  # somebody's hooks are not there to watch a trial
            part._forward_hooks.clear()
            part._forward_pre_hooks.clear()
        form = _form(theirs, variant)
    except Exception as error:
        return f"it could not be tried out ({type(error).__name__}: {error})"
    if form is None:
        return "it computes something else, or takes its tokens in an order that is not known"
    _become(module, form, variant)
    return None


def _form(theirs: Any, variant: str) -> type[HTAdapter] | None:
    """The class of ours that computes, called the same way, what ``theirs`` computes."""
    weight = theirs.project1.weight
    tokens = 1 + _GRID[0] * _GRID[1]
    # Seeded apart, so that the caller's random numbers stay as they are.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_BATCH, tokens, weight.shape[1], generator=generator, dtype=torch.float64).to(weight.device)
    with torch.no_grad():  # as made, an adapter hides its LayerNorm behind a gain of 1e-6
        for parameter in theirs.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise.to(parameter.device))
    names = list(inspect.signature(theirs.forward).parameters)
    forms: list[tuple[type[HTAdapter], Callable[[Any], Tensor]]] = [
        (SequenceFirstMona, lambda m: m(x.transpose(0, 1), _GRID).transpose(0, 1)),
        (HTAdapter if "grid" in names else BatchFirstAdapter, lambda m: m(x, _GRID)),
    ]
    for form, call in forms:
        ours = copy.deepcopy(theirs)
        _become(ours, form, variant)
        try:
            with torch.no_grad():
                expected, got = call(theirs) - x, call(ours) - x
        except Exception:  # it takes its tokens in the other order
            continue
        if expected.shape == got.shape and (got - expected).norm() <= _TOLERANCE * expected.norm():
            return form
    return None


def _become(module: Any, form: type[HTAdapter], variant: str) -> None:
    published: type[PublishedAdapter] = VARIANTS[variant]
    module.__class__ = form
    module.frequency, module.noise, module.variant = published.frequency, published.noise, variant
    module._cache = None
    if form is not HTAdapter:
        module.grid, module.prefix_tokens = None, 1
