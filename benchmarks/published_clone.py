"""Models that a clone of the published code builds, before and after one line, and there and back.

``python -m benchmarks.published_clone CLONE --output FILE`` builds a segmentation model of each form that the clone
has, with random weights in towers of ViT-B/16 and hybrid adapters, accelerates a second one with the same weights, and
times both in turn. The weights also go into an :class:`ht_kernels.HTCLIP`, from a file as the clone writes it, and back
into such a file. Only the files of adapters and models are loaded from the clone, which does not import as a whole.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ht_kernels as ht
from ht_kernels.clip.published_checkpoint import to_published
from ht_kernels.errors import InputError

from . import figures
from .gpu.measure import Call, interleave

_SIZE, _WIDTH, _DEPTH, _HEADS, _PATCH = 224, 768, 12, 12, 16
_LAYERS = 3, 6, 9

FORMS = {"timm": "BiomedCLIP", "open_clip": "MetaCLIP, UniMed-CLIP", "openai": "CLIP"}
"""The forms of towers, and the models of the published code that have them."""


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. Return exit status 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published_clone", description=__doc__)
    parser.add_argument("clone", type=Path, metavar="CLONE", help="a folder with the published code")
    parser.add_argument("--batch", type=int, nargs="+", default=(1, 8), help="images of a call (default: 1 8)")
    parser.add_argument("--seconds", type=figures.duration, default=30, help="to time each pair (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="figures, in JSON")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[dict[str, Any]] = []
    try:
        for form in FORMS:
            published = build(args.clone, form).to(device)
            ours = build(args.clone, form).to(device)
            ours.load_state_dict(published.state_dict())
            returned = there_and_back(published, _tower(args.clone, form))
            report = ht.accelerate(ours)
            for batch in args.batch:
                measured = measure(form, report, published, ours, batch, args.seconds, device)
                rows.append({**measured, **returned})
                print("\n".join(table(rows)), flush=True)
        figures.write(args.output, rows, table(rows), device=device.type)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def build(clone: Path, form: str) -> nn.Module:
    """A segmentation model of the clone with random weights; adapters and heads are trained.

    Raises:
        InputError: the clone lacks a file, or a file cannot be run.
    """
    adapters = _load(clone, "adapters/mona.py")
    clip_model = nn.Module()
    clip_model.visual = _tower(clone, form)
    kind = "clip" if form == "openai" else "open_clip"
    with redirect_stdout(sys.stderr):  # the published code prints what it injects
        clip_model, _ = getattr(adapters, f"inject_mona_variant_to_{kind}")(clip_model, "hybrid", 64)
    package = "openai_clip" if form == "openai" else "timm"
    models = _load(clone, f"third_party/{package}/clip_adapter.py")
    task_model = models.CLIPAdapter if form == "openai" else models.TimmCLIPAdapter
    model: Any = task_model(clip_model, list(_LAYERS), img_size=_SIZE, patch_size=_PATCH, task="seg")
    model.freeze_clip_backbone()
    found: nn.Module = model
    return found


def _tower(clone: Path, form: str) -> nn.Module:
    tower: nn.Module
    if form == "openai":
        made = _load(clone, "third_party/openai_clip/model.py").VisionTransformer
        tower = made(_SIZE, _PATCH, _WIDTH, _DEPTH, _HEADS, 512)
        return tower
    import open_clip

    if form == "open_clip":
        tower = open_clip.create_model("ViT-B-16").visual
        return tower
    from open_clip.timm_model import TimmModel

    tower = TimmModel("vit_base_patch16_224", 512, image_size=_SIZE, pool="", proj="linear")
    return tower


def _load(clone: Path, name: str) -> Any:
    """Load a file under ``src`` of the clone as a module."""
    path = clone / "src" / name
    if not path.is_file():
        raise InputError(f"{clone} has no src/{name}: expected a clone of the published code")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def there_and_back(published: Any, tower: nn.Module) -> dict[str, Any]:
    """The weights of a published model in an :class:`ht_kernels.HTCLIP` and back, both from files as each side writes.

    Args:
        published: a model of the clone; ``tower`` is one like its own, which gets its weights.

    Returns:
        ``there``, the relative error of the HTCLIP's logits, and ``back``, whether names and bits are those that the
        published model had.
    """
    device = next(published.parameters()).device
    trained = {part: getattr(published, part).state_dict() for part in ("reduces", "blocks", "seg_head")}
    trained["mona"] = {name: p.detach() for name, p in published.named_parameters() if "mona" in name}
    frozen = published.clip_model.visual.state_dict()
    tower.load_state_dict({name: frozen[name] for name in tower.state_dict()})
    with tempfile.TemporaryDirectory() as folder:
        torch.save(trained, Path(folder, "published.pth"))
        there = ht.HTCLIP.from_checkpoint(Path(folder, "published.pth"), backbone=tower, feature_layers=_LAYERS)
        there.save(Path(folder, "ours.safetensors"))
        back = ht.HTCLIP.from_checkpoint(Path(folder, "ours.safetensors"), backbone=tower)
    images = torch.rand(2, 3, _SIZE, _SIZE, generator=torch.Generator().manual_seed(1)).to(device)
    expected, got = published.eval()(images), there.to(device).eval()(images)
    return {"there": float((got - expected).norm() / expected.norm()), "back": _same(to_published(back), trained)}


def _same(got: Mapping[str, Mapping[str, Tensor]], expected: Mapping[str, Mapping[str, Tensor]]) -> bool:
    """Whether the parts of two published files have the same names and bits."""
    return got.keys() == expected.keys() and all(
        got[part].keys() == tensors.keys() and all(torch.equal(got[part][n].cpu(), t.cpu()) for n, t in tensors.items())
        for part, tensors in expected.items()
    )


def measure(
    form: str,
    report: ht.clip.acceleration.AccelerateReport,
    published: nn.Module,
    ours: nn.Module,
    batch: int,
    seconds: float,
    device: torch.device,
) -> dict[str, Any]:
    """Errors and median seconds of a call and of a training step, both models in turn."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, _SIZE, _SIZE, generator=generator).to(device)
    masks = torch.randint(0, 2, (batch, _SIZE, _SIZE), generator=generator).to(device)
    models = {"published": published, "ours": ours}
    with torch.no_grad():
        expected, got = (model.eval()(images) for model in models.values())
    calls: dict[str, Call] = {kind: _inference(model, images) for kind, model in models.items()}
    inference = interleave(calls, 1, device, seconds)
    steps: dict[str, Call] = {kind: _step(model.train(), images, masks) for kind, model in models.items()}
    training = interleave(steps, 1, device, seconds)
    return {
        "form": form,
        "batch": batch,
        "adapters": len(report.swapped),
        "blocks_run": [f"{whole.run} of {whole.blocks}" for whole in report.whole],
        "left": [f"{left.name}: {left.reason}" for left in report.left],
        "error": float((got - expected).norm() / expected.norm()),
        "inference_seconds": {kind: timing.median for kind, timing in inference.items()},
        "step_seconds": {kind: timing.median for kind, timing in training.items()},
    }


def _inference(model: nn.Module, images: Tensor) -> Call:
    def call() -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(images)
        return logits

    return call


def _step(model: nn.Module, images: Tensor, masks: Tensor) -> Callable[[], Tensor]:
    def step() -> Tensor:
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(images), masks)
        loss.backward()
        return loss.detach()

    return step


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of a Markdown table of the figures."""
    lines = [
        "| tower of | images | adapters | blocks run | error | ms, published | ours | | step, published | ours | "
        "| there, error | back, same bits |"
    ]
    lines.append("|---|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|---|")
    for row in rows:
        cells = [f"{row['form']} ({FORMS[row['form']]})", str(row["batch"]), str(row["adapters"])]
        cells += [", ".join(row["blocks_run"]) or "-", f"{row['error']:.0e}"]
        for what in ("inference_seconds", "step_seconds"):
            theirs, ours = (row[what][kind] for kind in ("published", "ours"))
            cells += [f"{1e3 * theirs:.0f}", f"{1e3 * ours:.0f}", f"{theirs / ours:.2f}x"]
        cells += [f"{row['there']:.0e}", "yes" if row["back"] else "no"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
