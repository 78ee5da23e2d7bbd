"""From images to a file that runs without torch: train, measure, export, check, and segment a frame with the file.

Without DATA it trains the shipped weights on, on simulated phantoms, which takes minutes and needs no download.

    python examples/train_and_deploy.py [DATA --dataset BUSI] [--epochs 3] [--output train_and_deploy]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ht_kernels as ht
from ht_kernels.data import SegmentationDataset
from ht_kernels.train import Examples, Recipe, Trainer, prepare, read_examples, simulate_examples, start_from
from ht_kernels.train.evaluate import evaluate
from ht_kernels.weights import PHANTOM


def examples(args: argparse.Namespace) -> tuple[Examples, Examples, Examples]:
    """To train on, to choose an epoch by, and to measure on."""
    if args.data is None:
        counts = args.phantoms, max(2, args.phantoms // 5), max(2, args.phantoms // 5)
        train, val, test = (simulate_examples(count, seed) for seed, count in enumerate(counts))
    else:
        train, val, test = (
            read_examples(SegmentationDataset(args.data, args.dataset, split)) for split in ("train", "val", "test")
        )
    return train, val, test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA", help="a folder in the published layout")
    parser.add_argument("--dataset", default="BUSI", metavar="NAME", help="which of its data sets")
    parser.add_argument("--phantoms", type=int, default=100, metavar="N", help="without DATA: how many to simulate")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("train_and_deploy"), metavar="DIR")
    args = parser.parse_args()

    train, val, test = examples(args)
    recipe = Recipe(
        epochs=args.epochs, batch=args.batch, learning_rate=1e-3, validate_every=1, validate_offset=0, augment="weak"
    )
    model = start_from(PHANTOM, recipe.method, keep_adapters=True)
    prepare(model, recipe.method)  # freezes all but adapters and heads
    outcome = Trainer(model, recipe, train, val, args.output).run()
    print(f"best Dice on the validation split: {outcome.best:.3f} after epoch {outcome.best_epoch}")

    best = ht.HTCLIP.from_checkpoint(args.output / "best.safetensors").eval()
    summary = evaluate(best, test, args.output / "test", "best.safetensors on the test split")["summary"]
    print(f"on the test split: {summary}")

    folded, file = ht.fold(best), args.output / "model.onnx"
    ht.deploy.export_onnx(folded, file, batch=(1, 1, 8))
    report = ht.deploy.check_onnx(folded, file, test.images[:4])
    print(f"{file}: within {report.relative_error:.1e} of torch, Dice of the masks {report.dice_mean:.4f}")
    if not report.passed:
        raise SystemExit("; ".join(report.failures))

    session = ht.deploy.Session.open(file, runtime="onnxruntime")
    mask = folded.classes(session(test.images[:1]))[0]
    print(f"{session.runtime} finds {int((mask > 0).sum())} pixels of {session.class_names[1]} in {test.names[0]}")


if __name__ == "__main__":
    main()
