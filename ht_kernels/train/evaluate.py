"""Evaluation of a trained model: scores of every image, a summary, a picture, and a report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ht_kernels.class_names import names_of
from ht_kernels.deploy import Session
from ht_kernels.errors import InputError
from ht_kernels.files import csv_bytes, output_folder, utf8
from ht_kernels.progress import Watch, unwatched
from ht_kernels.words import counted

from .examples import Examples
from .exported import Exported
from .metrics import (
    NAMES,
    Row,
    conventions,
    counts,
    embed_texts,
    predict_with_signals,
    score,
    summarize,
    summarize_classes,
)
from .pictures import draw_confidence, draw_confusion, draw_masks, draw_recall, draw_roc
from .results import check_foreign, earlier_files
from .retrieval import AT, ranks, recalls
from .zero_shot import class_probabilities, embed_classes

BATCH = 32
_NAMES = NAMES | {"f1": "F1", "auc": "AUC"}
_NAMES |= {f"image_to_text_recall_{k}": f"recall at {k}, image to text" for k in AT}
_NAMES |= {f"text_to_image_recall_{k}": f"recall at {k}, text to image" for k in AT}
for _way in ("image to text", "text to image"):
    _NAMES |= {f"{_way.replace(' ', '_')}_{which}_rank": f"{which} rank, {_way}" for which in ("median", "mean")}
_NAMES |= {
    "rsum": "rSum, the sum of recalls in percent",
    "mean_recall": "mean recall",
    "unfamiliar": "share of unfamiliar images",
}


Prompts = Mapping[str, Sequence[str]]
"""The words that turn a contrastive model into a classifier: sentences for each label 0, 1, ..., by its name."""


def evaluate(
    model: Any,
    examples: Examples,
    output: Path,
    title: str,
    prompts: Prompts | None = None,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    """Run a model on examples, and write report.md, results.json, results.csv and pictures.

    Args:
        model: an :class:`ht_kernels.HTCLIP` or a :class:`ht_kernels.train.Baseline`, on any device, or a
            :class:`ht_kernels.deploy.session.Session` that gives logits, in the images' size or on the patch grid.
        examples: examples for the model's task, in its image size; with labels or captions for a contrastive model.
        output: the folder for the results, made if missing. They appear together or not at all. Those of an earlier
            evaluation are removed, as its results.json says.
        title: the title of the report: which model was evaluated on which data.
        prompts: words for zero-shot classification by a contrastive model, whose examples then need labels. Without
            them, a contrastive model is evaluated on retrieval: of captions by images, and of images by captions.
        watch: receives how many images were run, and then how many were measured.

    Returns:
        The content of results.json: ``title``, ``images`` (their number), ``summary``, ``model``, ``left_out``, and
        ``files``, all that was written. For segmentation also ``image_size`` in pixels, and ``lesions``, ``missed``,
        ``without_lesion`` and ``false_alarms`` of :func:`ht_kernels.train.metrics.counts`, and for three or more
        classes ``classes``, what :func:`ht_kernels.train.metrics.summarize_classes` returns; for zero-shot
        classification also ``prompts``. The ``summary`` is that of :func:`ht_kernels.train.metrics.summarize` or
        :func:`ht_kernels.train.retrieval.recalls`; for a calibrated model it has ``unfamiliar``, the share of images
        that are beyond its limit.

    Raises:
        InputError: a target is a class that the model does not have, the images do not have the model's size, or the
            results cannot be written or would replace files that no evaluation wrote.
    """
    check_foreign(output)
    model = Exported(model) if isinstance(model, Session) else model
    size = model.config.image_size
    names = tuple(prompts) if prompts else names_of(model.config.num_classes, model.config.class_names)
    classes = len(names)
    several = names if model.config.task == "segmentation" and classes > 2 else ()
    captions = model.config.task == "contrastive" and not prompts
    if size is not None and examples.images.shape[-1] != size:
        raise InputError(f"the images are {examples.images.shape[-1]} pixels wide, the model takes {size}")
    if prompts and classes < 2:
        raise InputError(f"there is one class to choose from, {next(iter(prompts))}: name two or more with --classes")
    if not captions:
        examples.check_classes(classes)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    parts = [range(len(examples))[i : i + BATCH] for i in range(0, len(examples), BATCH)]
    run = [predict_with_signals(model, examples, part, BATCH, device) for part in _counted_in(parts, "running", watch)]
    predictions = torch.cat([some for some, _ in run])
    signals = [signal for _, of_some in run for signal in of_some]
    if prompts:
        predictions = class_probabilities(predictions, embed_classes(model, prompts).cpu())
    if captions:
        found = ranks(predictions, embed_texts(model, examples.texts).cpu(), examples.targets)
        rows, summary = _rank_rows(examples, *found), recalls(*found)
    else:
        rows = []
        for part in _counted_in(parts, "measuring", watch):
            rows += score(examples, part, predictions[part.start : part.stop], classes, names=several)
        summary = summarize(rows)
        rows = [row | signal for row, signal in zip(rows, signals, strict=True)]
    if model.familiarity is not None:
        scale = model.familiarity.scale
        summary["unfamiliar"] = sum(scale.unfamiliar(signal["distance"]) for signal in signals) / len(signals)
    results: dict[str, Any] = {
        "title": title,
        "images": len(examples),
        "summary": summary,
        "model": asdict(model.config),
        "left_out": examples.bad,
    }
    if model.config.task == "segmentation":
        results |= {"image_size": examples.images.shape[-1], **counts(rows)}
    if several:
        results["classes"] = summarize_classes(rows, several)
    if prompts:
        results["prompts"] = dict(prompts)
    with output_folder(output, earlier_files(output), strict=True) as folder:
        pictures = _draw(folder, examples, predictions, rows, names)
        _write(folder, rows, results, _report(results, pictures))
    return results


def _counted_in(parts: Sequence[range], words: str, watch: Watch) -> Iterator[range]:
    """The parts of the images, of which each is done when the next one is asked for."""
    for part in parts:
        yield part
        watch(f"{words} images", part.stop, parts[-1].stop)


def evaluate_all(
    model: Any,
    sets: Mapping[str, tuple[Examples, Prompts | None]],
    output: Path,
    title: str,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    """Run :func:`evaluate` on several data sets, each into a folder of its name, and write a table of all results.

    All of it appears together or not at all.

    Args:
        model, output, title, watch: as for :func:`evaluate`.
        sets: the examples and prompts of each data set, by its name.

    Returns:
        The content of results.json: ``title``, under ``datasets`` the results of each data set, and ``files``.

    Raises:
        InputError: as for :func:`evaluate`.
    """
    check_foreign(output, sets)
    with output_folder(output, earlier_files(output), strict=True) as folder:
        each = {
            name: evaluate(model, examples, folder / name, f"{title}: {name}", prompts, watch)
            for name, (examples, prompts) in sets.items()
        }
        results = {"title": title, "datasets": each}
        rows = [
            {"dataset": name, "images": one["images"], **_counts(one), **one["summary"]} for name, one in each.items()
        ]
        links = [f"- [{name}]({name}/report.md)" for name in each]
        _write(folder, rows, results, "\n".join([f"# {title}", "", *lines_of_all(results), "", *links]) + "\n")
    return results


def lines_of_all(results: dict[str, Any]) -> list[str]:
    """The lines of a Markdown table with a row for each data set and a column, mean ± standard deviation, per score.

    For masks it has columns for what was missed and for false alarms, and a sentence below that explains the headings.
    """
    each = results["datasets"]
    counted = _counted(list(each.values()))
    names = list(dict.fromkeys(n for one in each.values() for n in one["summary"] if not n.endswith("_std")))
    headings = ["images", *map(score_name, names), *counted]
    table = [f"| | {' | '.join(headings)} |", f"|---|{'--:|' * len(headings)}"]
    for place, (name, one) in enumerate(each.items()):
        cells = [_spread(one["summary"], n) for n in names]
        cells += [of_sets[place] for of_sets in counted.values()]
        table.append(f"| {name} | {one['images']} | {' | '.join(cells)} |")
    return [*table, *_explained(list(each.values()))]


def lines(results: dict[str, Any]) -> list[str]:
    """The lines of a Markdown table of the summary.

    For masks it has rows for what was missed and for false alarms, and a sentence below that explains the headings; for
    several classes also a table with a row for each.
    """
    summary = results["summary"]
    table = ["| | mean | standard deviation |", "|---|--:|--:|"] if "dice" in summary else ["| | |", "|---|--:|"]
    for name, value in summary.items():
        if name.endswith("_std"):
            continue
        cells = [score_name(name), _number(value)]
        cells += [_number(summary[name + "_std"])] if name + "_std" in summary else []
        table.append(f"| {' | '.join(cells)} |")
    table += [f"| {heading} | {cell} | |" for heading, (cell,) in _counted([results]).items()]
    return [*table, *_of_classes(results), *_explained([results])]


def _of_classes(results: dict[str, Any]) -> list[str]:
    """The lines of a table with a row for each of several classes and a column, mean ± deviation, per score."""
    classes: dict[str, dict[str, float]] = results.get("classes", {})
    if not classes:
        return []
    headings = [*NAMES.values(), "nothing found", "false alarms"]
    table = ["", f"| class | {' | '.join(headings)} |", f"|---|{'--:|' * len(headings)}"]
    for name, one in classes.items():
        cells = [_spread(one, score) for score in NAMES]
        cells += [f"{one['missed']} of {one['lesions']}", f"{one['false_alarms']} of {one['without_lesion']} images"]
        table.append(f"| {_cell(name)} | {' | '.join(cells)} |")
    return table


def _cell(text: str) -> str:
    """A text as it stands in a Markdown table."""
    return text.replace("|", "\\|")


def score_name(name: str) -> str:
    """What a score of a summary is called in tables."""
    return _NAMES.get(name, name)


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"


def _spread(summary: dict[str, float], name: str) -> str:
    """Mean and standard deviation of a score, as far as the summary has them."""
    if name not in summary:
        return ""
    deviation = summary.get(f"{name}_std", math.nan)
    return f"{_number(summary[name])} ± {deviation:.4f}" if math.isfinite(deviation) else _number(summary[name])


def _counts(results: dict[str, Any]) -> dict[str, int]:
    """The counts that the results of segmentation have beside the summary."""
    return {name: results[name] for name in ("lesions", "missed", "without_lesion", "false_alarms") if name in results}


def _counted(each: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Headings and cells, one for each of several results, of what was missed and of false alarms."""
    counted: dict[str, list[str]] = {}
    if any("lesions" in one for one in each):
        counted["nothing found"] = [f"{one['missed']} of {one['lesions']} lesions" for one in each]
    if any(one.get("without_lesion") for one in each):
        counted["false alarms"] = [f"{one['false_alarms']} of {one['without_lesion']} images" for one in each]
    return counted


def _explained(each: Sequence[dict[str, Any]]) -> list[str]:
    """The lines below a table that say what its headings leave out and count."""
    if "image_size" not in each[0]:
        return []
    words = conventions(each[0]["image_size"])
    if any(one["without_lesion"] for one in each):
        words += " Images without a lesion have no scores; those in which something was found are false alarms."
    return ["", words]


def _report(results: dict[str, Any], pictures: Sequence[str]) -> str:
    model = results["model"]
    facts = [counted(results["images"], "image"), f"{len(results['left_out'])} left out as unusable"]
    rows = [f"# {results['title']}", "", "; ".join(facts) + ".", "", *lines(results)]
    for picture in pictures:
        rows += ["", f"![{picture}]({picture})"]
    for name, words in results.get("prompts", {}).items():
        rows += ["", f"Sentences for {name}: {'; '.join(words)}"]
    rows += ["", *(f"- {name}: {value}" for name, value in model.items() if value not in (None, 0, ()))]
    rows += ["", *(f"- left out {name}: {why}" for name, why in results["left_out"].items())]
    return "\n".join(rows).rstrip() + "\n"


def _draw(folder: Path, examples: Examples, predictions: Tensor, rows: list[Row], names: Sequence[str]) -> list[str]:
    if "rank" in rows[0]:
        draw_recall(folder / "recall.png", rows)
        return ["recall.png"]
    if "probabilities" in rows[0]:
        draw_roc(folder / "roc.png", rows, names)
        draw_confusion(folder / "confusion.png", rows, names)
        return ["roc.png", "confusion.png"]
    ranked = sorted((i for i in range(len(rows)) if not math.isnan(rows[i]["dice"])), key=lambda i: rows[i]["dice"])
    middle = len(ranked) // 2 - 2
    if len(ranked) > 12:
        chosen, title = [*ranked[:4], *ranked[middle : middle + 4], *ranked[-4:]], "The worst, the middle and the best"
    else:
        chosen = ranked or list(range(len(rows)))[:4]
        title = counted(len(chosen), "image")
    draw_masks(folder / "overlays.png", examples, predictions, rows, chosen, title, names)
    shown = [row for row in rows if math.isfinite(row["dice"]) and math.isfinite(row["confidence"])]
    if not shown:
        return ["overlays.png"]
    draw_confidence(folder / "confidence.png", shown)
    return ["overlays.png", "confidence.png"]


def _rank_rows(examples: Examples, of_images: Tensor, of_texts: Tensor) -> list[Row]:
    """A row for each image and then for each caption: what it searched for, and the rank of the first right answer."""
    ways = ("text", examples.names, of_images), ("image", examples.texts, of_texts)
    return [
        {"name": name, "found": what, "rank": int(rank)}
        for what, names, places in ways
        for name, rank in zip(names, places, strict=True)
        if rank > 0
    ]


def _write(folder: Path, rows: list[Row], results: dict[str, Any], report: str) -> None:
    """Write the tables and the report of results, which then say what files there are in the folder."""
    (folder / "results.csv").write_bytes(csv_bytes(rows))
    (folder / "report.md").write_bytes(utf8(report))
    there = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    results["files"] = sorted([*there, "results.json"])
    (folder / "results.json").write_text(json.dumps(_plain(results), indent=2), encoding="utf-8")


def _plain(value: Any) -> Any:
    """Replace numbers that are not finite by None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
