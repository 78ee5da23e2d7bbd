"""Replicas as ``torch.nn.DataParallel`` makes them for every GPU, without a GPU."""

from __future__ import annotations

from typing import Any

from torch import nn


def replicate(model: nn.Module, factor: float) -> Any:
    """A replica whose attributes are tensors of the graph, ``factor`` times the parameters, and no parameters."""
    made: dict[nn.Module, Any] = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, replica in made.items():
        for name, child in module._modules.items():
            setattr(replica, name, None if child is None else made[child])
        for name, parameter in module._parameters.items():
            setattr(replica, name, None if parameter is None else parameter * factor)
    return made[model]
