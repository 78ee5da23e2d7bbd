"""A model as published code builds it, before and after one line: the same logits in less time.

The model here is this package's copy of the published mathematics, with adapters that were shaken so that they do
something. In your program it is the model that your code builds.

    python examples/drop_in.py [--backbone timm/vit_tiny_patch16_224] [--batch 1] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

import ht_kernels as ht
from ht_kernels.published import PublishedHTCLIP


def published_model(backbone: str) -> PublishedHTCLIP:
    """A segmentation model that runs the published way, with random weights."""
    torch.manual_seed(0)
    model = ht.HTCLIP(backbone=backbone, task="segmentation", num_classes=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".mona." in name:  # a new adapter passes its input on almost as it is
                parameter.add_(0.02 * torch.randn_like(parameter))
    return PublishedHTCLIP.like(model).eval()


def run(model: nn.Module, images: Tensor, rounds: int) -> tuple[Tensor, float]:
    """The logits of ``images``, and the median of milliseconds per call."""
    milliseconds = []
    with torch.inference_mode():
        logits: Tensor = model(images)  # not timed
        for _ in range(rounds):
            start = time.perf_counter()
            model(images)
            milliseconds.append(1e3 * (time.perf_counter() - start))
    return logits, statistics.median(milliseconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="timm/vit_tiny_patch16_224", metavar="NAME")
    parser.add_argument("--batch", type=int, default=1, metavar="IMAGES")
    parser.add_argument("--rounds", type=int, default=5, metavar="CALLS")
    args = parser.parse_args()

    model = published_model(args.backbone)
    images = torch.rand(args.batch, 3, *model.tower.image_size)
    before, slow = run(model, images, args.rounds)
    print(ht.accelerate(model))
    after, fast = run(model, images, args.rounds)

    difference = float((after - before).abs().max() / before.abs().max())
    print(f"\n{slow:.1f} ms before, {fast:.1f} ms after; logits differ by {difference:.1e} of the largest")
    print("For inference, ht.fold of an HTCLIP leaves out more: it takes gray frames of bytes, as scanners give them.")


if __name__ == "__main__":
    main()
