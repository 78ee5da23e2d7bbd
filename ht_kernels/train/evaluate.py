"""Evaluation of a trained model: figures for every image, their summary, pictures, and a report with all of it."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ht_kernels.clip import HTCLIP
from ht_kernels.errors import InputError
from ht_kernels.files import write_whole

from .examples import Examples
from .metrics import Row, predict, score, summarize
from .pictures import draw_masks, draw_roc

_BATCH = 32
_NAMES = {"dice": "Dice", "iou": "IoU", "hd95": "HD95, pixels", "asd": "ASD, pixels", "f1": "F1", "auc": "AUC"}


def evaluate(model: HTCLIP, examples: Examples, output: Path, title: str) -> dict[str, Any]:
    """Run a model on examples, and write report.md, results.json, results.csv (a row an image) and a picture.

    Args:
        model: on any device.
        examples: for the model's task, in its image size.
        output: folder for the results; made if it is not there.
        title: what was evaluated on what, for the report.

    Returns:
        The content of results.json: ``title``, ``images``, ``summary``, ``model``, ``left_out``; for masks also
        ``without_lesion`` and in how many of them something was found, ``false_alarms``.

    Raises:
        InputError: a target is a class that the model does not have, or the images are not of its size.
    """
    size, classes = model.config.image_size, model.config.num_classes
    if size is not None and examples.images.shape[-1] != size:
        raise InputError(f"the images are {examples.images.shape[-1]} pixels wide, the model takes {size}")
    if classes < 2 or int(examples.targets.max()) >= classes:
        raise InputError(f"the data has class {int(examples.targets.max())}, the model has {classes} classes from 0 on")
    device = next(model.parameters()).device
    indices = range(len(examples))
    predictions = predict(model, examples, indices, _BATCH, device)
    rows = score(examples, indices, predictions, classes)
    results: dict[str, Any] = {
        "title": title,
        "images": len(rows),
        "summary": summarize(rows),
        "model": asdict(model.config),
        "left_out": examples.bad,
    }
    if model.config.task == "segmentation":
        empty = [row for row in rows if math.isnan(row["dice"])]
        results["without_lesion"], results["false_alarms"] = len(empty), sum(row["predicted"] for row in empty)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {output} cannot be made: {error.strerror}") from error
    picture = _draw(output, examples, predictions, rows, model.config.task)
    write_whole(output / "results.csv", _table(rows), "the table")
    write_whole(output / "results.json", json.dumps(_plain(results), indent=2).encode(), "the results")
    write_whole(output / "report.md", _report(results, picture).encode(), "the report")
    return results


def lines(results: dict[str, Any]) -> list[str]:
    """The summary in a Markdown table."""
    summary = results["summary"]
    table = ["| | mean | standard deviation |", "|---|--:|--:|"] if "dice" in summary else ["| | |", "|---|--:|"]
    for name, value in summary.items():
        if name.endswith("_std"):
            continue
        cells = [_NAMES.get(name, name), f"{value:.4f}"]
        cells += [f"{summary[name + '_std']:.4f}"] if name + "_std" in summary else []
        table.append(f"| {' | '.join(cells)} |")
    return table


def _report(results: dict[str, Any], picture: str) -> str:
    model = results["model"]
    facts = [f"{results['images']} images", f"{len(results['left_out'])} left out as unusable"]
    if results.get("without_lesion"):
        facts.append(
            f"{results['without_lesion']} without a lesion, which have no Dice; in {results['false_alarms']} of them "
            "something was found"
        )
    rows = [f"# {results['title']}", "", "; ".join(facts) + ".", "", *lines(results), "", f"![{picture}]({picture})"]
    rows += ["", *(f"- {name}: {value}" for name, value in model.items() if value is not None)]
    rows += ["", *(f"- left out {name}: {why}" for name, why in results["left_out"].items())]
    return "\n".join(rows).rstrip() + "\n"


def _draw(output: Path, examples: Examples, predictions: Tensor, rows: list[Row], task: str) -> str:
    if task == "classification":
        draw_roc(output / "roc.png", rows)
        return "roc.png"
    ranked = sorted((i for i in range(len(rows)) if not math.isnan(rows[i]["dice"])), key=lambda i: rows[i]["dice"])
    middle = max(0, len(ranked) // 2 - 2)
    chosen = (
        list(dict.fromkeys([*ranked[:4], *ranked[middle : middle + 4], *ranked[-4:]])) or list(range(len(rows)))[:4]
    )
    draw_masks(output / "overlays.png", examples, predictions, rows, chosen)
    return "overlays.png"


def _table(rows: list[Row]) -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def _plain(value: Any) -> Any:
    """JSON has no nan."""
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
