"""The drop-in replacement: a model built by the published code runs on this library's kernels and identities."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ht_kernels.backends import torch_private
from ht_kernels.errors import InputError, reason
from ht_kernels.folding import adapter_weights
from ht_kernels.nn import HTAdapter
from ht_kernels.nn.inside import kinds
from ht_kernels.published import VARIANTS, PublishedAdapter

from .adapted_block import untie
from .in_place import quiet, relative_error, replaced_method
from .mona import BatchFirstAdapter, SequenceFirstMona
from .task_model import Whole, take
from .towers import Tower, find_tower

_TOLERANCE = 1e-9
"""The allowed relative L2 error in float64, in which both implementations must agree up to rounding."""

_FLOAT32_TOLERANCE = 1e-5
"""The allowed relative L2 error in float32. In lower precision, 1.5 times the published adapter's error is allowed."""

_GRID, _BATCH = (3, 2), 2


class _Form(NamedTuple):
    """What an adapter becomes: its class, and how many tokens stand before the patch grid."""

    kind: type[HTAdapter]
    prefix_tokens: int


class Swapped(NamedTuple):
    """An adapter that runs on the kernels after :func:`accelerate`."""

    name: str
    variant: str
    dim: int
    bottleneck: int


class Left(NamedTuple):
    """A module that looks like an adapter or a task model but was not changed, and the reason."""

    name: str
    reason: str


class AccelerateReport(NamedTuple):
    """The result of :func:`accelerate`; it prints as a table.

    Attributes:
        swapped: the adapters that run on the kernels, with their names in the model.
        left: the modules that look like adapters or task models but were not changed, with the reasons.
        whole: the task models that leave out what nothing reads.
    """

    swapped: tuple[Swapped, ...]
    left: tuple[Left, ...]
    whole: tuple[Whole, ...] = ()

    def __str__(self) -> str:
        if not any(self):
            return "No published adapters and no published task model here."
        count = f"{len(self.swapped)} {'adapter' if len(self.swapped) == 1 else 'adapters'}"
        lines = [f"{count} swapped, {len(self.left)} left as they were"]
        lines += [
            f"  {w.name or 'the model'}: {w.task}, {w.run} of {w.blocks} blocks are run, pyramid and head are folded"
            for w in self.whole
        ]
        lines += [f"  {s.name}: {s.variant}, {s.dim} -> {s.bottleneck}" for s in self.swapped]
        lines += [f"  {left.name or 'the model'}: left, {left.reason}" for left in self.left]
        return "\n".join(lines)


def accelerate(model: nn.Module, heads: bool = True) -> AccelerateReport:
    """Make a model of the published code run on this library's kernels and identities, in place.

    An adapter is recognised by its parameters, not by its class, so the published code is not imported. A Mona in a
    Swin block, whose tokens are the patch grid alone, is recognised too. The adapter stays the same object with the
    same Parameters, hooks and names; only its class changes. Optimizers, filters on parameter names and functions that
    hold the adapter keep working, but ``isinstance`` with its old class is false.

    First, a copy of each adapter is compared with this library's adapter, on random tokens, in float64 and in its own
    dtype, in evaluation and in training mode. If the results differ, the adapter is not changed. Like any
    :class:`ht_kernels.HTAdapter`, an accelerated adapter caches its folded weights in evaluation mode, takes pruned,
    normalised and parametrized weights, and calls the modules inside it one by one while they have hooks.

    Where published code replaced the forward of a block by a function, the block gets a method instead, so that copies
    and pickles of the model run on their own adapters.

    A task model, which has a tower, a pyramid and a head (``reduces``, ``blocks``, ``seg_head`` or ``cls_head``), also
    no longer runs the blocks that nothing reads, and upsamples scores instead of all channels; in training too. It is
    the same object with the same Parameters, names and hooks, and ``isinstance`` with its class stays true. It is tried
    out first as adapters are: on one random image, and on two with large values in both modes.
    :class:`ht_kernels.clip.task_model.TaskModel` says when a call goes the published way.

    Args:
        model: a module that contains adapters, such as a CLIP model, or a task model or a wrapper around one.
        heads: with False only adapters are changed, and task models run as they did.

    Returns:
        The adapters and task models that were changed, and the modules that were not, with the reasons.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a module of torch, got {type(model).__name__}")
    swapped: list[Swapped] = []
    left: list[Left] = []
    for name, module in model.named_modules():
        if not _looks_like_adapter(module):
            continue
        if isinstance(module, HTAdapter):
            left.append(Left(name, "it runs on the kernels already"))
            continue
        with quiet(module, training=False):  # in training mode, a spectral norm changes when its weight is read
            variant = _variant(module)
        why = variant if variant not in VARIANTS else _swap(module, variant)
        if why:
            left.append(Left(name, why))
        else:
            swapped.append(Swapped(name, variant, module.project1.in_features, module.project1.out_features))
    names = {module: name for name, module in model.named_modules()}
    for tower in _towers(model):
        left += [Left(names[tower.blocks[i]], why) for i, why in untie(tower).items()]
    for name, module in model.named_modules():
        if "mona" in module._modules and "forward" in vars(module) and all(name != each.name for each in left):
            why = "it is no block of a tower that is known, so copies of it go on calling the adapter of this one"
            left.append(Left(name, why))
    whole: list[Whole] = []
    for name, module in model.named_modules() if heads else ():
        found = take(module, name)
        if isinstance(found, Whole):
            whole.append(found)
        elif found is not None:
            left.append(Left(name, found))
    return AccelerateReport(tuple(swapped), tuple(left), tuple(whole))


def _towers(model: nn.Module) -> Iterable[Tower]:
    """The vision towers in a model, each once, although a CLIP model, its vision part and its trunk all have it."""
    towers: dict[nn.Module, Tower] = {}
    for module in model.modules():
        with suppress(InputError):  # it is no tower
            tower = find_tower(module)
            towers.setdefault(tower.visual, tower)
    return towers.values()


def _looks_like_adapter(module: nn.Module) -> bool:
    return all(isinstance(getattr(module, part, None), nn.Module) for part in ("project1", "project2", "adapter_conv"))


def _variant(module: Any) -> str:
    """The variant whose weights a module has, or the reason why it has the weights of no variant."""
    try:
        weights = adapter_weights(module)
    except ValueError as error:
        return str(error)
    others = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    # What a weight is computed from, such as a mask, lies in the same module as the weight.
    computed = tuple(name[: name.rfind(".") + 1] for name in weights.keys() - {name for name, _ in others})
    shapes = {name: tuple(t.shape) for name, t in others if not name.startswith(computed)}
    shapes |= {name: tuple(t.shape) for name, t in weights.items()}
    weight = shapes["project1.weight"]
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
    """Change the class of a module to one of ours and return None, or return the reason why this is not possible."""
    if isinstance(module, torch.jit.ScriptModule):
        return "it is a TorchScript module"
    if torch_private.has_global_hooks():
        return "there are hooks for all modules, with which kernels do not run: remove them first"
    for name, part in module.named_modules():
        replaced = replaced_method(part)
        if replaced is not None:
            whose = f"its {name} has a replaced {replaced}" if name else f"its {replaced} was replaced"
            return f"{whose}, so what it computes is not known"
    if any(p.is_meta for p in module.parameters()):
        return "its parameters have no values yet (device meta)"
    if not all(p.isfinite().all() for p in module.parameters()):
        return "its parameters have values that are not finite"
    if not isinstance(module.norm, nn.LayerNorm) or not isinstance(getattr(module, "dropout", None), nn.Dropout):
        return "its norm is not a LayerNorm, or it has no Dropout"
    takes = list(inspect.signature(module.forward).parameters)
    if len(takes) < 2 or (len(takes) > 2 and takes[1] != "grid"):
        return f"its forward takes ({', '.join(takes)}), expected tokens and their patch grid"
    forms = [_Form(HTAdapter, 1)]
    if takes[1] != "grid":
        forms = [_Form(kind, prefix) for prefix in (1, 0) for kind in (SequenceFirstMona, BatchFirstAdapter)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # trials are small, and on a busy machine threads would mostly wait
    try:
        with quiet(module, training=False), torch.no_grad():
            adapter_weights(module)  # computes weights without gradients, with which modules can be copied
            form = next((form for form in forms if _Trial(module, form, variant).passes()), None)
    except Exception as error:
        return f"it could not be tried out ({type(error).__name__}: {reason(error)})"
    finally:
        torch.set_num_threads(threads)
    if form is None:
        return "it computes something else, or takes its tokens in an order or number that is not known"
    _become(module, form, variant)
    return None


class _Trial:
    """A comparison of a copy of a published adapter with a copy in one of our forms, on the same tokens."""

    def __init__(self, module: Any, form: _Form, variant: str) -> None:
        self.module, self.form, self.variant = module, form, variant
        weight = module.project1.weight
        self.device, self.dtype, self.dim = weight.device, weight.dtype, weight.shape[1]
        # A generator with a fixed seed makes every trial the same, and does not disturb the global one.
        self.generator = torch.Generator().manual_seed(0)

    def passes(self) -> bool:
        x = self._random(_BATCH, self.form.prefix_tokens + _GRID[0] * _GRID[1], self.dim)
        theirs = copy.deepcopy(self.module).double().eval()
        exact = self._change(theirs, x, _GRID)
        if exact is None or not self._agrees_as_it_is(x.to(self.dtype), exact):
            return False
        for parameter in theirs.parameters():  # a new adapter's gamma of 1e-6 would hide errors in its LayerNorm
            parameter.add_(0.1 * self._random(*parameter.shape))
        ours = self._ours(theirs)
        for training, dropout in (False, 0.0), (True, 0.0), (True, 1.0):  # with dropout at 0 or 1, nothing is random
            for adapter in (theirs, ours):
                adapter.train(training).dropout.p = dropout
            expected = self._change(theirs, x, _GRID)
            if expected is None or not relative_error(self._change(ours, x, _GRID), expected) <= _TOLERANCE:
                return False
        theirs.eval()
        ours.eval()
        part = ours.project1.register_forward_hook(_nothing)  # with it, our adapter calls the modules one by one
        expected = self._change(theirs, x, _GRID)
        if expected is None or not relative_error(self._change(ours, x, _GRID), expected) <= _TOLERANCE:
            return False
        part.remove()
        # What theirs takes besides, ours must take: the other number of prefix tokens, and a square without its grid.
        other = 1 - self.form.prefix_tokens
        for tokens, grid in (other + _GRID[0] * _GRID[1], _GRID), (9, None), (10, None):
            x = self._random(_BATCH, tokens, self.dim)
            expected = self._change(theirs, x, grid)
            if expected is not None and not relative_error(self._change(ours, x, grid), expected) <= _TOLERANCE:
                return False
        return True

    def _agrees_as_it_is(self, x: Tensor, exact: Tensor) -> bool:
        """Whether, in the adapter's own dtype, our error against the float64 result ``exact`` is small enough."""
        theirs = copy.deepcopy(self.module).eval()
        expected = self._change(theirs, x, _GRID)
        if expected is None:  # torch has no Fourier transform in bfloat16
            return True
        got = self._change(self._ours(theirs), x, _GRID)
        return relative_error(got, exact) <= max(_FLOAT32_TOLERANCE, 1.5 * relative_error(expected, exact))

    def _change(self, adapter: Any, x: Tensor, grid: tuple[int, int] | None) -> Tensor | None:
        """The change that an adapter makes to tokens (B, N, D), in float64, or None if the call fails."""
        grids = () if grid is None else (grid,)
        try:
            sequence_first = self.form.kind is SequenceFirstMona
            out: Tensor = adapter(x.transpose(0, 1) if sequence_first else x, *grids)
            return (out.transpose(0, 1) if sequence_first else out).double() - x.double()
        except Exception:
            return None

    def _ours(self, theirs: Any) -> Any:
        ours = copy.deepcopy(theirs)
        _become(ours, self.form, self.variant)
        return ours

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(self.device)


def _nothing(*_: Any) -> None:
    """A hook."""


def _become(module: Any, form: _Form, variant: str) -> None:
    published: type[PublishedAdapter] = VARIANTS[variant]
    module.__class__ = form.kind
    module.frequency, module.noise, module.variant = published.frequency, published.noise, variant
    module._kinds = kinds(module)
    module._forget()
    if form.kind is not HTAdapter:
        module.grid, module.prefix_tokens = None, form.prefix_tokens
