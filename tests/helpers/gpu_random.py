"""What is done to the random numbers of a GPU, on a machine that has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch


@contextmanager
def random_numbers_of_a_gpu() -> Iterator[list[str]]:
    """A context in which a GPU seems to be there; it gives the functions that were called for its random numbers."""
    touched: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.cuda, "device_count", return_value=1))
        for name in ("manual_seed_all", "manual_seed", "get_rng_state", "set_rng_state"):
            noted = mock.patch.object(torch.cuda, name, side_effect=lambda *_, name=name: touched.append(name))
            stack.enter_context(noted)
        yield touched
