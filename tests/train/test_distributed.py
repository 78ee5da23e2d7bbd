"""DDP and FSDP2: two processes on the CPU get the gradients that one gets from both halves of the batch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import ht_kernels as ht
from helpers.adapters import relative_error
from helpers.published_stand_in import task_model
from helpers.small_towers import IMAGE

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed package")


class Tower(nn.Module):
    """Two adapters with a Linear between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.between, self.second = ht.HTAdapter(16, 8), nn.Linear(16, 16), ht.HTAdapter(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.between(self.first(x, (2, 3))), (2, 3))


def make() -> tuple[Tower, torch.Tensor]:
    torch.manual_seed(0)
    return Tower().eval(), torch.randn(4, 7, 16)


def check(rank: int, how: str) -> None:
    tower, x = make()
    tower(x).square().mean().backward()
    expected = {name: p.grad.clone() for name, p in tower.named_parameters() if p.grad is not None}
    tower.zero_grad()
    parallel: nn.Module = tower
    if how == "ddp":
        parallel = DistributedDataParallel(tower)
    else:
        mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
        for part in (tower.first, tower.second, tower):
            fully_shard(part, mesh=mesh)
    parallel(x[2 * rank : 2 * rank + 2]).square().mean().backward()
    for name, parameter in tower.named_parameters():
        grad = parameter.grad
        assert grad is not None
        grad = grad.full_tensor() if isinstance(grad, DTensor) else grad
        assert relative_error(grad, expected[name]) < 1e-4, (how, name)


def check_accelerated(rank: int) -> None:
    """A published task model, accelerated before it was wrapped and behind it."""
    images = torch.rand(4, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(3))
    alone = task_model("timm", "segmentation").eval()
    alone(images).square().mean().backward()
    for before in (True, False):
        model = task_model("timm", "segmentation").eval()
        if before:
            ht.accelerate(model)
        parallel = DistributedDataParallel(model, find_unused_parameters=True)
        if not before:
            assert ht.accelerate(parallel).whole
        parallel(images[2 * rank : 2 * rank + 2]).square().mean().backward()
        for parameter, expected in zip(model.parameters(), alone.parameters(), strict=True):
            if expected.grad is not None:
                assert relative_error(parameter.grad, expected.grad) < 1e-4


def work(rank: int, meeting: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    for how in ("ddp", "fsdp2"):
        check(rank, how)
    check_accelerated(rank)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may still hold tensors, and abort the process when they outlive the interpreter


def test_two_processes_get_the_gradients_of_one(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (str(tmp_path / "meeting"),), nprocs=2)
