"""``ht-kernels inspect``: how large a model's activations are, and what its adapters learned, as pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ht_kernels.files import check_foreign, claim, drawn, output_folder
from ht_kernels.outputs import INSPECTION

from . import model_options, outputs, terminal

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from ht_kernels.clip import HTCLIP
    from ht_kernels.clip.activations import Scale
    from ht_kernels.nn import HTAdapter

HELP = "draw a model's activation scales and what its adapters learned: filters, and the scales that images chose"
EXAMPLE = "ht-kernels inspect breast --output pictures"
_COLUMNS = 4
_FRAMES = 16
_LEAST_CHANGE = 0.01
"""The limit of the scale where no filter differs from 1."""

_SCALES = {"3x3": "#0072b2", "5x5": "#e69f00", "7x7": "#882255"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    came = parser.add_argument_group("inputs")
    came.add_argument(
        "checkpoint",
        type=Path,
        nargs="?",
        metavar="CHECKPOINT",
        help=f"{model_options.CHECKPOINT} (default: new adapters in the tower of --backbone)",
    )
    came.add_argument(
        "--frames",
        type=Path,
        metavar="SOURCE",
        help="images to run: a DICOM clip, a video, a folder of images, one image (default: the clip "
        "that comes with pydicom)",
    )
    to = parser.add_argument_group("outputs")
    to.add_argument(
        "--output", type=Path, metavar="DIR", required=True, help="folder for the pictures; made if missing"
    )
    outputs.add_overwrite(to)
    model_options.add_tower_arguments(parser.add_argument_group("model"))


def run(args: argparse.Namespace) -> int:
    from ht_kernels.media.opening import open_file
    from ht_kernels.video.example import example_clip

    model_options.check_image_size(args)
    if args.checkpoint is not None:
        model_options.check_checkpoint(args.checkpoint)
    claim(args.output, INSPECTION, args.overwrite)
    earlier = drawn(args.output, INSPECTION, "inspect")
    check_foreign(args.output, INSPECTION, earlier)
    source = open_file(args.frames or example_clip())
    import torch

    from ht_kernels.clip.activations import activation_scales
    from ht_kernels.clip.injection import adapters
    from ht_kernels.deploy.folded import why_not_folded
    from ht_kernels.files import png_bytes
    from ht_kernels.media.preprocess import sample_frames

    model, trained = model_options.load_model(args)
    if not trained:
        tower = "the tower has random weights" if model.draws_tower else "the tower is not tuned"
        print(f"No checkpoint was named: the adapters are new, and {tower}.", file=sys.stderr)
    found, unfoldable = adapters(model.tower), why_not_folded(model)
    frames = torch.from_numpy(sample_frames(source, model.tower.image_size, _FRAMES))
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
    with output_folder(args.output, earlier, strict=True) as folder:
        for name, figure in pictures.items():
            (folder / name).write_bytes(png_bytes(figure, "inspect"))
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
        x, _, prefix, _ = arguments
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
    """A panel per block: how far the gain of each channel, or the magnitude of a spectral mask, is from 1.

    A new filter is 1 and changes nothing. All panels have one scale, symmetric about that.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    changes = {block: change(adapter, grid) for block, adapter in found.items() if adapter.frequency}
    spectral = next(adapter.spectral for adapter in found.values() if adapter.frequency)
    limit = max(float(values.abs().max()) for values in changes.values()) or _LEAST_CHANGE
    colors = ScalarMappable(Normalize(-limit, limit), "RdBu_r")  # which the colour-blind tell apart, too
    columns = min(_COLUMNS, len(changes))
    rows = -(-len(changes) // columns)
    figure = Figure(figsize=(max(5.5, 3.1 * columns + 1.2), 3.2 * rows + 0.9), layout="constrained", dpi=120)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for place, (axes, (block, values)) in enumerate(zip(panels, changes.items(), strict=False)):
        axes.set_title(f"block {block}", fontsize=10)
        axes.tick_params(labelsize=8)
        if spectral is None:
            axes.bar(range(len(values)), values.numpy(), width=1.0, color=colors.to_rgba(values.numpy()))
            axes.axhline(0, color="black", linewidth=0.6)
            axes.set_ylim(-1.05 * limit, 1.05 * limit)
            axes.set_xlabel("channel", fontsize=9)
            axes.spines[["top", "right"]].set_visible(False)
            down = "gain less 1"
        else:
            shown = (-0.5, 0.5, 0.5, -0.5)
            axes.imshow(values.numpy(), cmap=colors.cmap, norm=colors.norm, extent=shown)
            axes.set_xlabel("across, cycles per patch", fontsize=9)
            down = "down, cycles per patch"
        if place % columns == 0:
            axes.set_ylabel(down, fontsize=9)
    for axes in panels[len(changes) :]:
        axes.remove()
    what = "gain less 1" if spectral is None else "mean magnitude over channels, less 1"
    figure.colorbar(colors, ax=panels[: len(changes)].tolist(), label=what, aspect=30)
    kind = "gain of each channel" if spectral is None else f"spectral filters ({spectral})"
    same = "; none has changed" if all(not values.any() for values in changes.values()) else ""
    figure.suptitle(f"What training changed in the {kind}\n0 is a filter that changes nothing{same}", fontsize=10)
    return figure


def change(adapter: HTAdapter, grid: tuple[int, int]) -> Tensor:
    """How far a frequency filter is from 1, which changes nothing: gains (C,), or a mask's mean magnitude (H, W)."""
    if adapter.spectral is not None:
        return magnitude(adapter, grid) - 1
    gain: Tensor = adapter.get_parameter("adapter_conv.freq_filter").detach().float().cpu() - 1
    return gain


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
            axes.plot(
                [block + 0.12 * (place - 1)] * len(v), v, ".", color=color, markersize=5, alpha=0.5, clip_on=False
            )
    axes.axhline(1 / 3, color="black", linestyle="dotted", linewidth=1, label="equal weights")
    axes.set_xticks(blocks)
    axes.set_ylim(0, 1)
    axes.set_xlabel("block")
    axes.set_ylabel("weight of the scale")
    axes.set_title("Noise weights: which scale each image chose (lines: means; dots: images)", fontsize=11)
    axes.legend(ncols=4, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
