"""The files that results consist of, by their paths in the output folder.

A command refuses a folder that holds such a file (:func:`ht_kernels.files.claim`), and with ``--overwrite`` replaces
these files and no others.
"""

from __future__ import annotations

from collections.abc import Collection

from ht_kernels.choices import TASKS

SETTINGS = "settings.yaml"
"""The options of the command, as ``--config`` takes them."""

MEASUREMENTS = ("measurements.csv", "measurements.json")
"""The tables of sizes and places, of a stream or of predictions."""

RECORDING = (
    "overlay.mp4",
    "labels.csv",
    "latency.png",
    "report.json",
    "segmentation.dcm",
    *MEASUREMENTS,
    "measurements.dcm",
)
"""Of a stream over a source. The report says which masks and pictures there are."""

PREDICTIONS = ("predictions.csv", "predictions.json")
"""The tables of predictions. The second says which pictures there are."""

CONTACT_SHEET = "contact_sheet.png"
DEMO = (CONTACT_SHEET, *RECORDING)

EVALUATION = (
    "report.md",
    "results.json",
    "results.csv",
    "overlays.png",
    "confidence.png",
    "roc.png",
    "confusion.png",
    "recall.png",
)
"""Of one data set; of several there is such a folder for each, and a table of all; results.json names them."""

TRAINING = ("best.safetensors", "last.pt", "log.csv", "curves.png")
"""Of a training, which goes on from last.pt, beside its events for TensorBoard."""

FOLDS = ("folds.md", "folds.csv")
"""Of several evaluations together."""

BENCH = ("results.json", "chart.png")

INSPECTION = ("activations.png", "filters.png", "noise_weights.png")


_TABLES = ("train.txt", "val.txt", "test.txt", "labels.csv", "captions.csv", "classes.txt", "groups.csv")


def dataset(name: str) -> tuple[str, ...]:
    """The tables of a data set in the published layout. Its images lie among those of others."""
    tables = [f"{task}/{name}/{table}" for task in TASKS for table in _TABLES]
    return (*tables, f"{name}.sha256")


PHANTOM_CLIPS = "phantom_clips.sha256"
"""The checksums of all files of simulated clips."""

PHANTOMS = (*dataset("PHANTOM"), PHANTOM_CLIPS)
"""Of simulated phantoms, as a data set or as clips. The checksums say which images, masks and clips there are."""


def evaluations(names: Collection[str]) -> list[str]:
    """Of an evaluation of these data sets."""
    each = [f"{name}/{file}" for name in names for file in EVALUATION] if len(names) > 1 else []
    return [*EVALUATION, *each]
