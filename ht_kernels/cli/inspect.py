"""``ht-kernels inspect``: how large a model's activations are, and what its adapters learned, as pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import model_options, terminal

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from ht_kernels.clip import HTCLIP
    from ht_kernels.clip.activations import Scale
    from ht_kernels.nn import HTAdapter

HELP = "draw a model's activation scales and what its adapters learned: filters, and the scales that images chose"
_COLUMNS = 4
_FRAMES = 16
_SCALES = {"3x3": "#2a7f9e", "5x5": "#8aa63b", "7x7": "#c8501e"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        type=Path,
        nargs="?",
        metavar="CHECKPOINT",
        help=f"{model_options.CHECKPOINT} (default: new adapters in the tower of --backbone)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", required=True, help="folder for the pictures; made if missing"
    )
    parser.add_argument(
        "--frames",
        type=Path,
        metavar="SOURCE",
        help="images to run: a DICOM clip, a video, a folder of images, one image (default: the clip "
        "that comes with pydicom)",
    )
    model_options.add_tower_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ht_kernels.clip.activations import activation_scales
    from ht_kernels.clip.injection import adapters
    from ht_kernels.deploy.folded import why_not_folded
    from ht_kernels.files import output_folder, png_bytes
    from ht_kernels.media.opening import open_file
    from ht_kernels.media.preprocess import sample_frames
    from ht_kernels.video.example import example_clip

    source = open_file(args.frames or example_clip())
    model, trained = model_options.load_model(args)
    if not trained:
        tower = "the tower has random weights" if model.draws_tower else "the tower is not tuned"
        print(f"No checkpoint was named: the adapters are new, and {tower}.", file=sys.stderr)
    found, unfoldable = adapters(model.tower), why_not_folded(model)
    frames = sample_frames(source, model.tower.image_size, _FRAMES)
    terminal.warn(source.warnings)
    scales = activation_scales(model, frames.float() / 255)
    print("\n".join(_table(scales)))
    pictures: dict[str, Figure] = {"activations.png": _draw_scales(scales)}
    if any(adapter.frequency for adapter in found.values()):
        pictures["filters.png"] = _draw_filters(found, model.tower.grid)
    if unfoldable:
        print(f"The model cannot be folded, so noise weights are not drawn: {unfoldable}.", file=sys.stderr)
    elif any(adapter.noise for adapter in found.values()):
        pictures["noise_weights.png"] = _draw_noise_weights(noise_weights_of(model, frames))
    with output_folder(args.output) as folder:
        for name, figure in pictures.items():
            (folder / name).write_bytes(png_bytes(figure))
    print(f"wrote {', '.join(pictures)} to {args.output}")
    return 0


def _table(scales: dict[int, Scale]) -> list[str]:
    """The lines of a table of activation scales."""
    lines = [f"{'root mean squares':<20}{'stream':>10}{'largest channel':>18}{'adapter adds':>15}"]
    for block, scale in scales.items():
        added = "-" if scale.added is None else f"{scale.added:.3g}"
        lines.append(f"behind block {block:<7}{scale.stream:>10.3g}{scale.largest:>18.3g}{added:>15}")
    return lines


def _draw_scales(scales: dict[int, Scale]) -> Figure:
    """The root mean squares of stream, largest channel and what the adapters add, over the blocks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained", dpi=120)
    axes = figure.subplots()
    lines = {
        "largest channel": ("#8aa63b", {block: scale.largest for block, scale in scales.items()}),
        "residual stream": ("#2a7f9e", {block: scale.stream for block, scale in scales.items()}),
        "what the adapter adds": ("#c8501e", {block: scale.added for block, scale in scales.items() if scale.added}),
    }
    for label, (color, values) in lines.items():
        if values:
            axes.plot(list(values), list(values.values()), "o-", color=color, markersize=4, label=label)
    axes.set_yscale("log")
    axes.set_xticks(list(scales))
    axes.set_xlabel("block")
    axes.set_ylabel("root mean square")
    axes.set_title("Scale of the activations behind each block", fontsize=11)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def noise_weights_of(model: HTCLIP, frames: Tensor) -> dict[int, Tensor]:
    """The weights (B, 3) that the noise estimators give the three scales for frames (B, 1, H, W) uint8, by block.

    Blocks behind the last that a head reads are left out, for they are not run.
    """
    import torch

    import ht_kernels as ht
    from ht_kernels.backends import reference
    from ht_kernels.folding import noise_weights

    folded = ht.fold(model)
    weights: dict[int, Tensor] = {}

    def keep(block: int, adapter: Any, arguments: tuple[Any, ...]) -> None:
        x, _, prefix = arguments
        values = adapter.values()
        if values.hidden_weight is not None:
            pooled = reference.down_project(x, values, adapter.eps)[:, prefix:].mean(1)
            weights[block] = noise_weights(values, pooled)

    for block, adapter in folded.adapters.items():
        adapter.register_forward_pre_hook(lambda module, arguments, block=int(block): keep(block, module, arguments))
    with torch.inference_mode():
        folded(frames)
    return weights


def _draw_filters(found: dict[int, HTAdapter], grid: tuple[int, int]) -> Figure:
    """A panel per block: the magnitude of a spectral mask, averaged over channels, or the gain of each channel."""
    from matplotlib.figure import Figure

    shown = {block: adapter for block, adapter in found.items() if adapter.frequency}
    rows = -(-len(shown) // _COLUMNS)
    figure = Figure(figsize=(3.2 * _COLUMNS, 3.0 * rows + 0.6), layout="constrained", dpi=120)
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    spectral = next(iter(shown.values())).spectral
    for axes, (block, adapter) in zip(panels, shown.items(), strict=False):
        axes.set_title(f"block {block}", fontsize=9)
        if adapter.spectral is None:
            gain = adapter.get_parameter("adapter_conv.freq_filter").detach().float().cpu()
            axes.bar(range(len(gain)), gain.numpy(), width=1.0, color="#c8501e")
            axes.set_xlabel("channel", fontsize=8)
            axes.set_ylabel("gain", fontsize=8)
        else:
            image = axes.imshow(magnitude(adapter, grid).numpy(), cmap="magma", extent=(-0.5, 0.5, 0.5, -0.5))
            figure.colorbar(image, ax=axes, shrink=0.8)
            axes.set_xlabel("cycles per patch, across", fontsize=8)
            axes.set_ylabel("down", fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in panels[len(shown) :]:
        axes.remove()
    what = f"spectral filters ({spectral}): mean magnitude over channels" if spectral else "gains of the channels"
    figure.suptitle(f"Learned {what}", fontsize=11)
    return figure


def magnitude(adapter: HTAdapter, grid: tuple[int, int]) -> Tensor:
    """The magnitude (H, W) of a spectral mask at every frequency, mean over channels, frequency 0 in the middle."""
    import torch

    from ht_kernels.folding import fold_adapter, on_grid

    mask = on_grid(fold_adapter(adapter), grid).mask
    assert mask is not None
    half = torch.view_as_complex(mask.detach().float().cpu().contiguous()).abs().mean(0)
    # The other half of a real image's spectrum mirrors this one.
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    mirrored = columns >= half.shape[1]
    rows = torch.where(mirrored, -rows % grid[0], rows)
    columns = torch.where(mirrored, grid[1] - columns, columns)
    centred: Tensor = torch.fft.fftshift(half[rows, columns])
    return centred


def _draw_noise_weights(weights: dict[int, Tensor]) -> Figure:
    """Per block, the mean weight of each scale, and a dot for every image."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained", dpi=120)
    axes = figure.subplots()
    blocks = list(weights)
    for place, (scale, color) in enumerate(_SCALES.items()):
        values = [weights[block][:, place].float().cpu().numpy() for block in blocks]
        axes.plot(blocks, [v.mean() for v in values], color=color, label=scale)
        for block, v in zip(blocks, values, strict=True):
            axes.plot([block + 0.12 * (place - 1)] * len(v), v, ".", color=color, markersize=4, alpha=0.5)
    axes.axhline(1 / 3, color="black", linestyle="dotted", linewidth=1, label="equal weights")
    axes.set_xticks(blocks)
    axes.set_ylim(0, 1)
    axes.set_xlabel("block")
    axes.set_ylabel("weight of the scale")
    axes.set_title("Noise weights: which scale each image chose (lines: means; dots: images)", fontsize=11)
    axes.legend(ncols=4, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
