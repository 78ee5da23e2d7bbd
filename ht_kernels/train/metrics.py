"""Metrics of predictions: per image for segmentation, over all images for classification.

MONAI is imported in the functions that use it, because its import takes five seconds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ht_kernels.classes import classes_of
from ht_kernels.clip import HTCLIP
from ht_kernels.confidence import mask_confidence
from ht_kernels.dice import dice
from ht_kernels.logits import probabilities

from .examples import Examples

_TEXTS = 256
"""The number of sentences that the text tower embeds at once."""

Row = dict[str, Any]
"""The results of one image: its ``name``, and either scores or its ``label`` and ``probabilities``."""

NAMES = {
    "dice": "Dice",
    "iou": "IoU",
    "hd95": "HD95, found",
    "hd95_all": "HD95, all",
    "asd": "ASD, found",
    "asd_all": "ASD, all",
}
"""The scores of masks and their headings in tables. :func:`conventions` has the words for *found* and *all*."""

SCORES = {"segmentation": "dice", "classification": "accuracy", "contrastive": "mean_recall"}
"""The validation score by which training chooses the best weights, by task."""


@torch.no_grad()
def predict(model: HTCLIP, examples: Examples, indices: Sequence[int], batch: int, device: Any) -> Tensor:
    """Run a model on the examples at ``indices``.

    Returns:
        Masks of classes (N, S, S) uint8, probabilities (N, C) of the C classes that the model tells apart, or
        embeddings (N, E), by the model's task, on the CPU.
    """
    model.eval()
    parts = _batches(examples, indices, batch, device)
    results = [_prediction(model, model(images).float()) for images in parts]
    return torch.cat(results) if results else torch.empty(0)


@torch.no_grad()
def predict_with_signals(
    model: HTCLIP, examples: Examples, indices: Sequence[int], batch: int, device: Any
) -> tuple[Tensor, list[Row]]:
    """Run a model once on the examples at ``indices``, and ask how far each result is to be relied on.

    Returns:
        What :func:`predict` returns, and for each image a row: if the model is calibrated, the ``distance`` from the
        training images and the ``percentile`` of it among validation images; for segmentation the ``confidence`` of the
        mask, nan where it has no outline.
    """
    model.eval()
    results: list[Tensor] = []
    signals: list[Row] = []
    scale = None if model.familiarity is None else model.familiarity.scale
    for images in _batches(examples, indices, batch, device):
        rows: list[Row] = [{} for _ in images]
        if scale is None:
            result = model(images).float()
        else:
            result, distances = model.with_distance(images)
            rows = [{"distance": d, "percentile": scale.percentile(d)} for d in distances.tolist()]
        if model.config.task == "segmentation":
            for row, logits in zip(rows, result.float().cpu().numpy(), strict=True):
                confidence = mask_confidence(logits)
                row["confidence"] = float("nan") if confidence is None else confidence
        results.append(_prediction(model, result.float()))
        signals += rows
    return torch.cat(results), signals


def _batches(examples: Examples, indices: Sequence[int], batch: int, device: Any) -> Iterator[Tensor]:
    for first in range(0, len(indices), batch):
        yield examples.images[list(indices[first : first + batch])].to(device).float() / 255


def _prediction(model: HTCLIP, result: Tensor) -> Tensor:
    if model.config.task == "segmentation":
        result = classes_of(result)
    elif model.config.task == "classification":
        result = torch.from_numpy(probabilities(result.cpu().numpy()))
    return result.cpu()


@torch.no_grad()
def embed_texts(model: HTCLIP, texts: Sequence[str]) -> Tensor:
    """The embeddings (T, E) of sentences, on the model's device."""
    return torch.cat([model.encode_text(texts[i : i + _TEXTS]) for i in range(0, len(texts), _TEXTS)])


def score(
    examples: Examples,
    indices: Sequence[int],
    predictions: Tensor,
    classes: int,
    surfaces: bool = True,
    names: Sequence[str] = (),
) -> list[Row]:
    """Return a row for each of the examples at ``indices``, whose predictions are of ``classes`` classes.

    For masks (H, W) a row has ``lesions``, the number of foreground classes in the true mask, and ``missed``, the
    number of these of which no pixel was predicted; ``predicted`` is whether any foreground was. Scores are means over
    the foreground classes in the true mask, and nan if there is none, whatever was predicted:

    - ``dice`` and ``iou``, which are 0 for a class that was missed;
    - with ``surfaces``, ``hd95``, the larger of the 95th percentiles of the distances between the outlines in both
      directions, and ``asd``, the mean distance of the predicted outline from the true one, both in pixels. They leave
      out classes that were missed, and are nan if none is left;
    - with ``surfaces``, ``hd95_all`` and ``asd_all``, the same with each missed class counted as the diagonal of the
      image: see :func:`count_misses`.

    With ``names`` of the classes, background first, a row also has each of the scores of a class alone, such as
    ``dice/vessel``, nan where it is not in the true mask, and whether it is in the true mask and in the prediction,
    ``lesion/vessel`` and ``predicted/vessel``. :func:`summarize_classes` reads these.
    """
    from monai.metrics import compute_iou  # type: ignore[attr-defined]

    rows: list[Row] = []
    for i, prediction in zip(indices, predictions, strict=True):
        row: Row = {"name": examples.names[i]}
        target = examples.targets[i]
        if target.dim() == 0:
            rows.append({**row, "label": int(target), "probabilities": prediction.tolist()})
            continue
        ours, truth = (F.one_hot(m.long(), classes).permute(2, 0, 1)[None].float() for m in (prediction, target))
        present, found = (m[0, 1:].flatten(1).any(1) for m in (truth, ours))
        overlaps = [dice(prediction == k, target == k) for k in range(1, classes)]
        values = {"dice": torch.tensor(overlaps), "iou": compute_iou(ours, truth, False)[0]}
        if surfaces:
            for name, distances in _distances(ours, truth, present & found).items():
                values |= {name: distances, f"{name}_all": count_misses(distances, *target.shape)}
        for name, value in values.items():
            kept = value[present & value.isfinite()]
            row[name] = float(kept.mean()) if len(kept) else float("nan")
            of_classes = torch.where(present & value.isfinite(), value, torch.nan).tolist()
            row |= {f"{name}/{of}": number for of, number in zip(names[1:], of_classes, strict=False)}
        for of, there, guessed in zip(names[1:], present.tolist(), found.tolist(), strict=False):
            row |= {f"lesion/{of}": there, f"predicted/{of}": guessed}
        row["predicted"] = bool((prediction > 0).any())
        rows.append(row | {"lesions": int(present.sum()), "missed": int((present & ~found).sum())})
    return rows


def count_misses(distances: Tensor, height: int, width: int) -> Tensor:
    """Distances between the outlines of lesions in pixels, in which nan, a missed lesion, counts as the diagonal.

    A lesion that was missed has no distance. Without it, a mean gets better by each lesion that is missed; the diagonal
    of the image, ``height`` by ``width`` pixels, is more than any distance in it, so that no miss pays.
    """
    return torch.where(distances.isnan(), math.hypot(height, width), distances)


def conventions(image_size: int) -> str:
    """A sentence for below a table with the headings of :data:`NAMES`, for square images of ``image_size`` pixels."""
    return (
        f"Distances are in pixels of an image of {image_size} x {image_size}: *found* leaves out lesions of which "
        "nothing was found, *all* counts each of them as the image's diagonal, "
        f"{math.hypot(image_size, image_size):.1f}; their Dice and IoU are 0."
    )


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """What rows of masks say beside their scores.

    Returns:
        ``lesions``: their number, one for each image and foreground class in its true mask. ``missed``: those of which
        nothing was found. ``without_lesion``: images whose true mask has no foreground. ``false_alarms``: those of
        them in which something was found.
    """
    empty = [row for row in rows if not row["lesions"]]
    return {
        "lesions": sum(row["lesions"] for row in rows),
        "missed": sum(row["missed"] for row in rows),
        "without_lesion": len(empty),
        "false_alarms": sum(row["predicted"] for row in empty),
    }


def _distances(ours: Tensor, truth: Tensor, measured: Tensor) -> dict[str, Tensor]:
    """``hd95`` and ``asd`` (K - 1,) in pixels, from one-hot masks (1, K, H, W); nan for classes not ``measured``."""
    from monai.metrics import (  # type: ignore[attr-defined]
        compute_average_surface_distance,
        compute_hausdorff_distance,
    )

    distances = {name: torch.full((len(measured),), torch.nan) for name in ("hd95", "asd")}
    chosen = measured.nonzero()[:, 0]
    if len(chosen):
        masks = ours[:, 1 + chosen], truth[:, 1 + chosen]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # MONAI warns about its own code
            distances["hd95"][chosen] = compute_hausdorff_distance(*masks, True, percentile=95)[0].float()
            distances["asd"][chosen] = compute_average_surface_distance(*masks, True)[0].float()
    return distances


def summarize(rows: Sequence[Row]) -> dict[str, float]:
    """Summarize rows: mean and standard deviation of each score of masks, or the metrics of classification.

    Images whose score is nan are left out; if all are, so is the mean. What that leaves out is in :func:`score`.

    The metrics of classification are accuracy, precision, recall, F1 and AUC. With two classes, class 1 is the positive
    class; with more, precision, recall, F1 and AUC are means over the classes. AUC is nan if only one class occurs.
    """
    if "probabilities" in rows[0]:
        return _summarize_labels(rows)
    summary: dict[str, float] = {}
    for name in NAMES:
        values = np.array([row[name] for row in rows if name in row], dtype=float)
        values = values[np.isfinite(values)]
        if any(name in row for row in rows):
            summary[name] = float(values.mean()) if len(values) else float("nan")
            summary[f"{name}_std"] = float(values.std()) if len(values) else float("nan")
    return summary


def summarize_classes(rows: Sequence[Row], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Summarize the scores of each class of the foreground that rows of :func:`score` have, by the name of the class.

    Returns:
        For each class what :func:`summarize` returns of masks, of the images that have it; and as :func:`counts` of
        them ``lesions``, ``missed``, ``without_lesion`` and ``false_alarms``, those of the class alone.
    """
    summaries: dict[str, dict[str, float]] = {}
    for name in names[1:]:
        alone: list[Row] = []
        for row in rows:
            there, guessed = row[f"lesion/{name}"], row[f"predicted/{name}"]
            scores = {score: row[f"{score}/{name}"] for score in NAMES if f"{score}/{name}" in row}
            alone.append(scores | {"lesions": int(there), "missed": int(there and not guessed), "predicted": guessed})
        summaries[name] = summarize(alone) | counts(alone)
    return summaries


def _summarize_labels(rows: Sequence[Row]) -> dict[str, float]:
    from monai.metrics import compute_roc_auc  # type: ignore[attr-defined]

    labels = np.array([row["label"] for row in rows])
    probabilities = np.array([row["probabilities"] for row in rows])
    guesses, classes = probabilities.argmax(1), probabilities.shape[1]
    counted = [1] if classes == 2 else range(classes)
    found = np.array([((guesses == c) & (labels == c)).sum() for c in counted], dtype=float)
    guessed = np.array([(guesses == c).sum() for c in counted], dtype=float)
    there = np.array([(labels == c).sum() for c in counted], dtype=float)
    precision, recall = found / np.maximum(guessed, 1), found / np.maximum(there, 1)
    f1 = 2 * found / np.maximum(guessed + there, 1)
    areas = []
    for c in counted:
        truth = torch.from_numpy((labels == c).astype(np.int64))
        if 0 < truth.sum() < len(truth):
            areas.append(np.asarray(compute_roc_auc(torch.from_numpy(probabilities[:, c]), truth)))
    return {
        "accuracy": float((guesses == labels).mean()),
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "f1": float(f1.mean()),
        "auc": float(np.mean(areas)) if areas else float("nan"),
    }
