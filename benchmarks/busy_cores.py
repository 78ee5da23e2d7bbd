"""The folded model on cores that other programs use too: ``python -m benchmarks.busy_cores``, half a minute.

ViT-Tiny/16 segments frames one by one while 0, 1, 2 and 4 other processes each keep a core busy. When OpenMP loads, it
reads from the environment how its threads wait for each other. So compare three runs of this program: without changes,
with ``GOMP_SPINCOUNT=1000``, and with ``OMP_NUM_THREADS=1``.
"""

from __future__ import annotations

import multiprocessing
import sys
import time

import torch

import ht_kernels as ht

_SECONDS = 5.0
"""The time to measure with each number of processes."""


def main() -> int:
    """Print the milliseconds per frame, as p50 and p95, for each number of busy processes."""
    torch.manual_seed(0)
    folded = ht.fold(ht.HTCLIP("timm/vit_tiny_patch16_224").eval())
    frame = torch.randint(0, 256, (1, 1, *folded.image_size), dtype=torch.uint8)
    for busy in (0, 1, 2, 4):
        programs = [multiprocessing.get_context("spawn").Process(target=_burn, daemon=True) for _ in range(busy)]
        for program in programs:
            program.start()
        time.sleep(4.0 if busy else 0.0)  # wait until they have started
        times = _follow(folded, frame)
        for program in programs:
            program.kill()
            program.join()
        p50, p95 = (1e3 * times[int(share * len(times))] for share in (0.5, 0.95))
        print(f"{busy} busy: p50 {p50:.0f} ms, p95 {p95:.0f} ms, {len(times)} frames", flush=True)
    return 0


@torch.inference_mode()
def _follow(folded: ht.deploy.FoldedHTCLIP, frame: torch.Tensor) -> list[float]:
    """The seconds that each frame took, sorted."""
    folded(frame)
    times = []
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        folded(frame)
        times.append(time.perf_counter() - start)
    return sorted(times)


def _burn() -> None:
    while True:
        pass


if __name__ == "__main__":
    sys.exit(main())
