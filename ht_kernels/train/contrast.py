"""InfoNCE over a whole batch, however the batch is split among processes and parts, or within each part alone."""

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
    fits: Tensor,
    seed: int,
) -> Tensor:
    """Compute the gradients of the loss of a batch, and return the loss. The split into parts does not change them.

    Every image is compared with all captions of the batch, not only with those of its process or part. For each part in
    turn, the loss of the whole batch is computed from the part's embeddings, with gradients, and the embeddings of all
    other images, as constants. This gives the gradient with respect to the part, and the sum over all parts is the
    gradient of the batch. If a process has several parts, it first embeds all of them without gradients, and then each
    again with gradients and the same dropout.

    Args:
        world: the processes. Process r of n holds the images at places r, r + n, ... of the batch.
        embed: the model as Accelerate prepared it; it maps images (b, C, S, S) to embeddings (b, E).
        load: returns the images at the given places of the batch.
        parts: the places of this process, split into parts. A process without images of its own gets one place of
            another process, and takes part with weight 0.
        texts: embeddings (B, E) of the captions of the batch.
        fits: (B, B) bool, whether the caption of the column fits the image of the row.
        seed: the seed of the dropout.
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
    everything = _gather(world, torch.cat(first).detach()[: len(mine)], len(texts))
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        with nullcontext() if last else world.no_sync(embed):
            own = first[0] if len(parts) == 1 else embedded(number)
            loss = info_nce(everything.index_copy(0, torch.tensor(part, device=own.device), own), texts, fits)
            weight = world.num_processes if mine else 0  # gradients are averaged over processes, and we need their sum
            world.backward(loss * weight)
    return loss.detach()


def backward_within_parts(
    world: Accelerator,
    embed: Any,
    load: Callable[[Sequence[int]], Tensor],
    parts: Sequence[Sequence[int]],
    texts: Tensor,
    fits: Tensor,
    seed: int,
) -> Tensor:
    """Compute the gradients of the mean over the images of a batch of the losses of its parts, and return the mean.

    Every image is compared with the captions of its part. Process r of n computes parts r, r + n, ...; one that gets
    none computes the first and takes part with weight 0, because all processes must exchange gradients.

    Args:
        world, embed, load, texts, fits, seed: as for :func:`backward`.
        parts: the places of the batch, split into parts.
    """
    mine = parts[world.process_index :: world.num_processes]
    total = torch.zeros((), device=world.device)
    for number, part in enumerate(mine or parts[:1]):
        torch.manual_seed(seed + number)
        with nullcontext() if number == max(len(mine) - 1, 0) else world.no_sync(embed):
            with world.autocast():
                images = embed(load(part))
            places = torch.tensor(part, device=texts.device)
            loss = info_nce(images.float(), texts[places], fits[places][:, places])
            weight = len(part) / len(texts) if mine else 0.0
            world.backward(loss * weight * world.num_processes)  # gradients are averaged, and we need their sum
        total += loss.detach() * weight
    summed: Tensor = world.reduce(total, "sum")
    return summed


def _gather(world: Accelerator, mine: Tensor, count: int) -> Tensor:
    """Gather the embeddings of all processes, in the order of the batch."""
    share = math.ceil(count / world.num_processes)
    padded = torch.cat([mine, mine.new_zeros(share - len(mine), mine.shape[1])])
    every: Tensor = world.gather(padded)
    return every.view(world.num_processes, share, -1).transpose(0, 1).flatten(0, 1)[:count]
