"""InfoNCE over a whole batch, whichever way it is dealt out: every image is compared with all captions of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from .losses import info_nce


def backward(
    world: Accelerator,
    embed: Any,
    load: Callable[[Sequence[int]], Tensor],
    parts: Sequence[Sequence[int]],
    texts: Tensor,
    captions: Tensor,
    seed: int,
) -> Tensor:
    """Gradients of the loss of a batch, the same whatever the processes and parts; returns the loss.

    Each part is embedded with gradients and stands among the embeddings of all others, which are numbers to it: so it
    gets its own share of the gradient, and the shares add up. With several parts, all are embedded without gradients
    first, and once more, with the same dropout, to learn from.

    Args:
        world: the processes; process r of n has the places r, r + n, ... of the batch.
        embed: the model as it was prepared: images (b, C, S, S) to embeddings (b, E).
        load: images of places in the batch.
        parts: places of this process; one with a place that is not its own takes part with weight 0.
        texts: embeddings (B, E) of the captions of the batch.
        captions: (B,) int64, equal where captions are.
        seed: of the dropout.
    """
    images = [load(part) for part in parts]

    def embedded(number: int) -> Tensor:
        torch.manual_seed(seed + number)
        with world.autocast():
            result: Tensor = embed(images[number])
        return result.float()

    mine = [place for part in parts for place in part if place % world.num_processes == world.process_index]
    with torch.no_grad() if len(parts) > 1 else nullcontext():
        first = [embedded(number) for number in range(len(parts))]
    everything = _gather(world, torch.cat(first).detach()[: len(mine)], len(captions))
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        with nullcontext() if last else world.no_sync(embed):
            own = first[0] if len(parts) == 1 else embedded(number)
            loss = info_nce(everything.index_copy(0, torch.tensor(part, device=own.device), own), texts, captions)
            weight = world.num_processes if mine else 0  # the mean over processes is taken of gradients
            world.backward(loss * weight)
    return loss.detach()


def _gather(world: Accelerator, mine: Tensor, count: int) -> Tensor:
    """The embeddings of all processes in the order of the batch."""
    share = math.ceil(count / world.num_processes)
    padded = torch.cat([mine, mine.new_zeros(share - len(mine), mine.shape[1])])
    every: Tensor = world.gather(padded)
    return every.view(world.num_processes, share, -1).transpose(0, 1).flatten(0, 1)[:count]
