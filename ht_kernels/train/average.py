"""A moving average of the weights, which scores better on unseen images than the weights of the last step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Average:
    """An exponential moving average of parameters, and of running statistics.

    After ``n`` updates the decay is ``min(decay, (1 + n) / (10 + n))``, so that the random initial weights are
    forgotten within the first steps.

    Args:
        parameters: what is averaged; each is read again at every :meth:`update`.
        decay: the weight of the average so far against that of the newest parameters.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self._parameters = list(parameters)
        self._decay = decay
        self._updates = 0
        self._means = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters of a finished step into the average."""
        self._updates += 1
        share = 1 - min(self._decay, (1 + self._updates) / (10 + self._updates))
        for mean, parameter in zip(self._means, self._parameters, strict=True):
            mean.lerp_(parameter, share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside this context the parameters have their averaged values."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Any]:
        """What :meth:`load` takes to go on from here."""
        return {"updates": self._updates, "means": [mean.cpu() for mean in self._means]}

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._updates = state["updates"]
        for mean, saved in zip(self._means, state["means"], strict=True):
            mean.copy_(saved)

    @torch.no_grad()
    def _swap(self) -> None:
        for mean, parameter in zip(self._means, self._parameters, strict=True):
            kept: Tensor = parameter.clone()
            parameter.copy_(mean)
            mean.copy_(kept)
