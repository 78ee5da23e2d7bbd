"""What a spectral filter is for: stripes over ultrasound images, and who can take them out.

Line noise and grating stripes are added to images; a gain per channel, the published frequency filter, and a spectral
filter learn to give back the clean image; both are then tried on images they have not seen.

    python examples/periodic_interference.py [--images FOLDER] [--count 160] [--steps 400] [--output PNG]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ht_kernels.data import PhantomDataset
from ht_kernels.nn import SpectralFilter

SIDE = 64
STRIPES = ((20, 0), (0, 13), (9, 9))
"""Cycles per image, down and across: line noise, a grating, and a slanted one."""


def clean_images(folder: Path | None, count: int) -> Tensor:
    """Gray images (N, 1, 64, 64) in [0, 1]: from a folder, else phantoms."""
    if folder is None:
        frames = [image[0] for image, _, _ in (PhantomDataset(length=count, seed=1)[i] for i in range(count))]
        images = torch.stack(frames)[:, None]
        return torch.nn.functional.interpolate(images, (SIDE, SIDE), mode="area")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg"))[:count]
    if len(files) < 8:
        raise SystemExit(f"{folder} has {len(files)} images (.png, .jpg), and at least 8 are needed")
    arrays = [np.array(Image.open(path).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)) for path in files]
    return torch.from_numpy(np.stack(arrays))[:, None].float() / 255


def with_stripes(images: Tensor, generator: torch.Generator) -> Tensor:
    """``images`` under stripes of random phase and strength."""
    down, across = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    striped = images.clone()
    for v, h in STRIPES:
        phase = 2 * torch.pi * torch.rand(len(images), 1, 1, 1, generator=generator)
        strength = 0.05 + 0.1 * torch.rand(len(images), 1, 1, 1, generator=generator)
        striped += strength * torch.cos(2 * torch.pi * (v * down + h * across) / SIDE + phase)
    return striped


def decibels(got: Tensor, clean: Tensor) -> float:
    """Peak signal-to-noise ratio, for values in [0, 1]."""
    return float(-10 * (got - clean).square().mean().log10())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="ultrasound images (default: phantoms)")
    parser.add_argument("--count", type=int, default=160, metavar="N", help="how many images")
    parser.add_argument("--steps", type=int, default=400, metavar="N", help="of training")
    parser.add_argument("--output", type=Path, default=Path("periodic_interference.png"), metavar="PNG")
    args = parser.parse_args()

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    images = clean_images(args.images, args.count)
    held_out = len(images) // 4
    seen, unseen = images[held_out:], images[:held_out]
    gain = torch.nn.Parameter(torch.ones(1))
    spectral = SpectralFilter(1, "full", (SIDE, SIDE))
    optimizer = torch.optim.Adam([gain, *spectral.parameters()], lr=0.02)
    for _ in range(args.steps):
        clean = seen[torch.randint(len(seen), (16,), generator=generator)]
        striped = with_stripes(clean, generator)
        loss = (gain * striped - clean).square().mean() + (spectral(striped) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    striped = with_stripes(unseen, generator)
    with torch.no_grad():
        pictures = {
            "clean": unseen,
            "with stripes": striped,
            "gain": gain * striped,
            "spectral filter": spectral(striped),
        }
    for name, result in pictures.items():
        if name != "clean":
            print(f"{name:<16}{decibels(result, unseen):6.1f} dB, {held_out} images not trained on")
    draw(pictures, spectral, args.output)
    print(f"wrote {args.output}")


def draw(pictures: dict[str, Tensor], spectral: SpectralFilter, path: Path) -> None:
    """Two unseen images as they went through, and the learned mask."""
    figure = Figure(figsize=(15, 6), layout="constrained", dpi=110)
    grid = figure.add_gridspec(2, 6)
    for column, (name, images) in enumerate(pictures.items()):
        for row in range(2):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(images[row, 0].numpy(), cmap="gray", vmin=0, vmax=1)
            axes.axis("off")
            if row == 0:
                ratio = "" if name == "clean" else f"\n{decibels(images, pictures['clean']):.1f} dB"
                axes.set_title(name + ratio, fontsize=11)
    axes = figure.add_subplot(grid[:, 4:])
    half = torch.view_as_complex(spectral.mask.detach()).abs()[0]
    image = axes.imshow(
        torch.fft.fftshift(half, dim=0).numpy(), cmap="magma", extent=(0, SIDE / 2, SIDE / 2, -SIDE / 2), aspect="auto"
    )
    figure.colorbar(image, ax=axes)
    axes.set_title("learned mask: magnitude", fontsize=11)
    axes.set_xlabel("cycles across")
    axes.set_ylabel("cycles down")
    figure.savefig(path)


if __name__ == "__main__":
    main()
