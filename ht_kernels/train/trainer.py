"""The training loop. Except for rounding and dropout, the result depends neither on the number of processes nor on
interruptions."""

from __future__ import annotations

import io
import math
import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import extract_model_from_parallel, gather_object
from torch import Tensor, nn

from ht_kernels.backends import cpu
from ht_kernels.class_names import class_count, names_of
from ht_kernels.classes import classes_of
from ht_kernels.errors import InputError
from ht_kernels.files import csv_bytes, make_folder, write_whole
from ht_kernels.progress import Watch, unwatched

from . import contrast
from .augment import augment
from .average import Average
from .events import EventLog
from .examples import Examples
from .fingerprint import cannot_resume, difference, fingerprint
from .losses import info_nce, loss_for
from .methods import merged, text_tower_in_training
from .metrics import SCORES, embed_texts, predict, score, summarize, summarize_classes
from .recipe import Recipe, uses_adapters
from .retrieval import ranks, recalls
from .trained_on import noted

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """The result of a training run.

    Attributes:
        epochs: the number of epochs run, including those before a resume.
        best: the best validation score, which the saved weights have: mean Dice, accuracy, mean recall, or the loss if
            the recipe selects by it.
        best_epoch: the epoch with the best score, counted from 1.
    """

    epochs: int
    best: float
    best_epoch: int


class Trainer:
    """Trains a model by a recipe, and writes ``best.safetensors``, ``last.pt``, ``log.csv``, ``curves.png`` and
    TensorBoard events.

    A batch is drawn once for all processes and then split among them. The random numbers that augment an image and
    choose its caption depend only on the seed, the epoch and the image's index. So the number of processes,
    accumulation and a resume change only rounding, and dropout, for which every process draws its own random numbers.

    Args:
        model: an :class:`ht_kernels.HTCLIP`, whose trainable parameters :func:`ht_kernels.train.methods.prepare` has
            chosen, or a :class:`ht_kernels.train.Baseline`.
        recipe: the hyper-parameters.
        train: the examples to train on.
        val: the examples by which the best weights are chosen.
        output: the folder for the results. If it holds a ``last.pt``, that run is resumed; the recipe may then have
            other ``epochs`` and another ``patience``, and nothing else may differ.
        say: receives each line of output for the user, on the main process.
        alarm: receives what is amiss, on the main process; None for ``say``. It is also in ``log.csv``, under
            ``remarks`` of the epoch.
        watch: receives after each batch how many images of all epochs were trained on, on the main process.

    Attributes:
        saved: the number of epochs that ``last.pt`` has, 0 if there is none.

    Raises:
        InputError: ``last.pt`` is damaged, or belongs to another recipe, model or data (the message says which); a
            target is a class that the model does not have; no validation image has a lesion; the best epoch is to be
            selected by the loss, and the task is not contrastive; the precision is fp16 and there is no GPU; or the
            folder cannot be made.
    """

    def __init__(
        self,
        model: Any,
        recipe: Recipe,
        train: Examples,
        val: Examples,
        output: Path,
        say: Say = print,
        alarm: Say | None = None,
        watch: Watch = unwatched,
    ) -> None:
        self.model, self.recipe, self.train, self.val, self.output = model, recipe, train, val, output
        if model.config.task != "contrastive":
            for examples in (train, val):
                examples.check_classes(class_count(model.config.num_classes))
        if model.config.task != "contrastive" and recipe.select == "loss":
            raise InputError(f"select 'loss' is for contrastive, and this model is for {model.config.task}")
        if model.config.task == "segmentation" and not val.targets.any():
            raise InputError(
                f"no validation image has a lesion ({len(val)} came), so they have no Dice to choose an epoch by"
            )
        self.accelerator = _accelerator(recipe.precision)
        extract_model_from_parallel(model, keep_fp32_wrapper=False)  # an earlier training left its precision there
        main = self.accelerator.is_main_process
        self.say: Say = say if main else lambda _: None
        self._alarm: Say = (alarm or say) if main else lambda _: None
        self._watch: Watch = watch if main else unwatched
        self._remarks: list[str] = []
        if recipe.precision == "bf16" and self.accelerator.device.type == "cpu" and (reason := cpu.bfloat16_reason()):
            self.say(f"precision bf16 on this CPU: {reason}; training may be faster without")
        if getattr(model, "draws_tower", False):  # a baseline has no tower
            self.say("The tower starts with random weights, so the checkpoint holds the whole tower.")
        self.contrastive = model.config.task == "contrastive"
        self.trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(self._groups(), betas=recipe.betas, weight_decay=recipe.weight_decay)
        self.parallel, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.statistics = _statistics(model)
        if self.contrastive:
            # The text tower is frozen, so without dropout each caption is embedded only once.
            self.texts = None if recipe.text_dropout else embed_texts(model, train.texts)
        else:
            self.loss = loss_for(model.config.task, model.config.num_classes)
        self.made_of = fingerprint(model, recipe, train, val)
        model.trained_on = noted(model.trained_on, train, val)
        averaged = [t for t in (*self.trainable.values(), *self.statistics.values()) if t.is_floating_point()]
        self.average = None if recipe.average is None else Average(averaged, recipe.average)
        self.found_in_training = self.found_in_validation = True
        self.events: EventLog | None = None
        self.epoch = self.step = self.waited = self.saved = 0
        self.best, self.best_epoch = math.inf if recipe.select == "loss" else -1.0, 0
        self.rows: list[dict[str, Any]] = []
        make_folder(output)
        if (output / "last.pt").exists():
            self._resume(output / "last.pt")

    def run(self) -> Outcome:
        """Train for all epochs of the recipe, or until the recipe's patience ends.

        Raises:
            InputError: the loss is not finite, where the message names the images of the batch; or a file cannot be
                written.
        """
        while not self._ended:
            start = time.perf_counter()
            row: dict[str, Any] = {"epoch": self.epoch + 1, "loss": self._train_epoch()}
            row["seconds"] = time.perf_counter() - start
            row["images_per_second"] = self._images_of_epoch / row["seconds"]
            row["learning_rate"] = self._learning_rate(self.recipe.learning_rate)
            self.epoch += 1
            if self.recipe.validates(self.epoch):
                row |= self._validate()
            self._warn_of_background()
            if self._ended:
                self._warn_of_nothing()
            if self._remarks:
                row["remarks"] = "; ".join(self._remarks)
                self._remarks.clear()
            self.rows.append(row)
            self._record(row)
        if self.rows and self.accelerator.is_main_process:
            write_whole(self.output / "curves.png", self._curves(), "the picture of the curves")
        return Outcome(self.epoch, self.best, self.best_epoch)

    def warn(self, sentence: str) -> None:
        """Say what is amiss, and keep it for the log, in the row of the epoch."""
        self._alarm(sentence)
        self._remarks.append(sentence)

    @property
    def _ended(self) -> bool:
        return self.epoch >= self.recipe.epochs or self.waited >= self.recipe.patience

    @property
    def _score(self) -> str:
        """The score of the validation split that the best epoch is chosen by."""
        return "loss" if self.recipe.select == "loss" else SCORES[self.model.config.task]

    def _train_epoch(self) -> float:
        """Train for one epoch, and return the mean loss."""
        recipe, world = self.recipe, self.accelerator
        torch.manual_seed(hash((recipe.seed, self.epoch, world.process_index)) % 2**63)
        order = list(range(len(self.train)))
        random.Random(f"{recipe.seed} {self.epoch}").shuffle(order)
        order = order[: self._images_of_epoch]
        self.parallel.train()
        total = 0.0
        self.found_in_training, self.found_in_validation = self.model.config.task != "segmentation", True
        for first in range(0, len(order), recipe.batch):
            batch = order[first : first + recipe.batch]
            total += self._train_batch(batch) * len(batch)
            self.step += 1
            done = first + len(batch)
            words = f"epoch {self.epoch + 1} of {recipe.epochs}, loss {total / done:.4g}"
            self._watch(words, self.epoch * len(order) + done, recipe.epochs * len(order))
        return total / len(order)

    @property
    def _images_of_epoch(self) -> int:
        """How many images of the training split an epoch uses."""
        return self.recipe.images_of(len(self.train))

    def _train_batch(self, batch: list[int]) -> float:
        recipe, world = self.recipe, self.accelerator
        # A process that gets no image of the batch still takes part, with weight 0, because all processes must
        # exchange gradients.
        mine = list(range(world.process_index, len(batch), world.num_processes)) or [0]
        size = math.ceil(len(mine) / recipe.accumulate)
        parts = [mine[i : i + size] for i in range(0, len(mine), size)]
        mean = self._contrast(batch, parts) if self.contrastive else self._mean_loss(batch, parts)
        if not math.isfinite(mean):
            names = ", ".join(self.train.names[i] for i in batch)
            best = self.output / "best.safetensors"
            start = f"start from the best weights so far, --from {best}," if self.best_epoch else "start again"
            raise InputError(
                f"the loss is {mean} in epoch {self.epoch + 1}, on a batch of {names}; {start} in another folder with "
                "a lower learning rate, or without mixed precision"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(group["peak"])
        if recipe.clip is not None:
            world.clip_grad_norm_(self.trainable.values(), recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update()
        return mean

    def _groups(self) -> list[dict[str, Any]]:
        """The trainable parameters for the optimizer: those inside the tower, and those of the heads.

        ``peak`` is the learning rate of a group at the start of the cosine schedule.
        """
        recipe = self.recipe
        inside = [p for name, p in self.trainable.items() if name.startswith("clip_model.")]
        heads = [p for name, p in self.trainable.items() if not name.startswith("clip_model.")]
        peaks = recipe.adapter_learning_rate or recipe.learning_rate, recipe.learning_rate
        groups = zip((inside, heads), peaks, strict=True)
        return [{"params": parameters, "lr": peak, "peak": peak} for parameters, peak in groups if parameters]

    def _mean_loss(self, batch: list[int], parts: list[list[int]]) -> float:
        """Compute the gradients of the mean loss over a batch, and return the loss.

        ``parts`` holds the places of the batch that this process computes, split for accumulation.
        """
        world = self.accelerator
        total = torch.zeros((), device=world.device)
        counted = parts[0][0] % world.num_processes == world.process_index
        for part in parts:
            images, targets = self._examples([batch[place] for place in part])
            with world.autocast(), _unsynced(self, part is not parts[-1]):
                logits = self.parallel(images)
                loss = self.loss(logits, targets)
                weight = len(part) / len(batch) if counted else 0.0
                # Gradients are averaged over the processes, and we need their sum.
                world.backward(loss * weight * world.num_processes)
            total += loss.detach() * weight
            self.found_in_training = self.found_in_training or bool(classes_of(logits.detach()).any())
        return float(world.reduce(total, "sum"))

    def _contrast(self, batch: list[int], parts: list[list[int]]) -> float:
        """Compute the gradients of the contrastive loss of a batch, and return the loss."""
        recipe = self.recipe
        captions = torch.tensor([self._caption(i) for i in batch], device=self.accelerator.device)
        texts = self._embed_captions(captions)
        backward = contrast.backward
        if recipe.negatives == "part":
            places, size, backward = range(len(batch)), recipe.compared, contrast.backward_within_parts
            parts = [list(places[i : i + size]) for i in range(0, len(batch), size)]
        return float(
            backward(
                self.accelerator,
                self.parallel,
                lambda part: self._examples([batch[place] for place in part])[0],
                parts,
                texts,
                self._fits(self.train.targets[batch].to(captions.device), captions),
                hash((recipe.seed, self.step, self.accelerator.process_index)) % 2**62,
            )
        )

    def _embed_captions(self, captions: Tensor) -> Tensor:
        """Return the embeddings of the captions of a batch, the same in all processes."""
        if self.texts is not None:
            return self.texts[captions]
        torch.manual_seed(hash((self.recipe.seed, self.step)) % 2**62)
        with text_tower_in_training(self.model):
            return embed_texts(self.model, [self.train.texts[i] for i in captions])

    def _fits(self, known: Tensor, captions: Tensor) -> Tensor:
        """Which captions (B,) are not wrong ones for images with the captions ``known`` (B, M); (B, B) bool."""
        if self.recipe.equal_negatives:
            return torch.eye(len(captions), dtype=torch.bool, device=captions.device)
        return (known[:, :, None] == captions).any(1)

    def _caption(self, i: int) -> int:
        """Choose one of the captions of image ``i`` at random."""
        known = [int(text) for text in self.train.targets[i] if text >= 0]
        return random.Random(f"caption {self.recipe.seed} {self.epoch} {i}").choice(known)

    def _examples(self, part: list[int]) -> tuple[Tensor, Tensor]:
        """Return augmented images (B, C, S, S) in [0, 1] and their targets, on the device."""
        images, targets = [], []
        for i in part:
            target = self.train.targets[i]
            chance = random.Random(f"{self.recipe.seed} {self.epoch} {i}")
            mask = target if target.dim() == 2 else None
            image, mask = augment(self.train.images[i], mask, self.recipe.augment, chance)
            images.append(image)
            targets.append(target if mask is None else mask)
        device = self.accelerator.device
        return torch.stack(images).to(device).float() / 255, torch.stack(targets).to(device).long()

    def _learning_rate(self, peak: float) -> float:
        return self.recipe.rate_at(self.step, len(self.train), peak)

    def _validate(self) -> dict[str, float]:
        """Return the scores on the validation split, and save the weights if they are the best so far.

        If the recipe averages weights, the averaged ones are validated and saved.
        """
        with nullcontext() if self.average is None else self.average.in_place():
            summary = self._scores()
            by_loss = self.recipe.select == "loss"
            value = summary[self._score]
            self.waited += 1
            if value < self.best if by_loss else value > self.best:
                self.best, self.best_epoch, self.waited = value, self.epoch, 0
                if self.accelerator.is_main_process:
                    merged(self.model, self.recipe.method).save(self.output / "best.safetensors")
        return {f"val_{name}": number for name, number in summary.items()}

    def _scores(self) -> dict[str, float]:
        """The summary of the validation split, of which each process computes a part."""
        world = self.accelerator
        mine = range(world.process_index, len(self.val), world.num_processes)
        predictions = predict(self.model, self.val, mine, self.recipe.batch, world.device)
        if self.contrastive:
            found = dict(gather_object(list(zip(mine, predictions, strict=True))))
            images = torch.stack([found[i] for i in range(len(self.val))])
            texts = embed_texts(self.model, self.val.texts).cpu()
            loss = self._contrastive_loss(images, texts[self.val.targets[:, 0]])
            return {"loss": loss, **recalls(*ranks(images, texts, self.val.targets))}
        config = self.model.config
        if config.task == "segmentation":
            self.found_in_validation = bool(predictions.any())
        classes = names_of(config.num_classes, config.class_names)
        several = classes if config.task == "segmentation" and len(classes) > 2 else ()
        rows = gather_object(score(self.val, mine, predictions, len(classes), surfaces=False, names=several))
        alone = summarize_classes(rows, several)
        return summarize(rows) | {f"dice/{name}": scores["dice"] for name, scores in alone.items()}

    def _contrastive_loss(self, images: Tensor, texts: Tensor) -> float:
        """The mean loss of the validation images and the first captions of each, among as many as in training."""
        known, size = self.val.targets, self.recipe.compared
        pieces = [slice(i, i + size) for i in range(0, len(images), size)]
        losses = [info_nce(images[p], texts[p], self._fits(known[p], known[p, 0])) for p in pieces]
        return sum(map(float, losses)) / len(losses)

    def _warn_of_background(self) -> None:
        """Say so if no pixel of any training image, or of any validation image, was predicted as foreground."""
        found = torch.tensor([self.found_in_training, self.found_in_validation], device=self.accelerator.device)
        total = self.accelerator.reduce(found.float(), "sum").tolist()
        empty = " or ".join(name for name, number in zip(("training", "validation"), total, strict=True) if not number)
        if not empty:
            return
        recipe = self.recipe
        advice = ["--start identity"] if uses_adapters(recipe.method) and recipe.start != "identity" else []
        advice += [] if recipe.warmup else ["--warmup 2"]
        self.warn(
            f"epoch {self.epoch}: every pixel of every {empty} image was predicted as background. If that does not "
            "end after a few epochs, start again in another folder with "
            f"{' and '.join([*advice, f'a lower --learning-rate than {recipe.learning_rate:g}'])}"
        )

    def _warn_of_nothing(self) -> None:
        """Say so if the score of the validation split was 0 after every epoch."""
        if self._score == "loss" or self.best > 0:
            return
        found = {
            "segmentation": "the model found nothing: no pixel of a lesion of the validation split, after any epoch",
            "classification": "the model found nothing: no image of the validation split was classified rightly",
            "contrastive": "the model found nothing: no image of the validation split found its caption, or was found",
        }[self.model.config.task]
        recipe = self.recipe
        advice = ["--start identity"] if uses_adapters(recipe.method) and recipe.start != "identity" else []
        self.warn(
            f"{found}. Look whether masks, labels and images belong together; then try, in another folder, "
            f"{', '.join([*advice, 'trained weights of the tower'])}, more --epochs than {recipe.epochs}, or another "
            f"--learning-rate than {recipe.learning_rate:g}"
        )

    def _curves(self) -> bytes:
        """The picture of the losses and the scores of all epochs."""
        from .pictures import draw_curves  # needs matplotlib, which training does without

        title = f"{self.output.resolve().name}: {self.recipe.method}, {len(self.train)} images to train on"
        return draw_curves(self.rows, self._score, self.best_epoch, title)

    def _record(self, row: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        # The scores of single classes, up to 31, are in the log alone.
        numbers = {name: value for name, value in row.items() if name != "remarks" and "/" not in name}
        words = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items() if name != "epoch")
        self.say(f"epoch {row['epoch']} of {self.recipe.epochs}: {words}")
        if self.events is None:
            self.events = EventLog(self.output / "tensorboard", first=row["epoch"])
        self.events.add(row["epoch"], numbers)
        write_whole(self.output / "log.csv", csv_bytes(self.rows), "the log")
        state = {
            "made_of": self.made_of,
            "model": {name: t.detach().cpu() for name, t in (self.trainable | self.statistics).items()},
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state(),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            "progress": [self.epoch, self.step, self.waited, self.best, self.best_epoch],
            "rows": self.rows,
        }
        content = io.BytesIO()
        torch.save(state, content)
        write_whole(self.output / "last.pt", content.getvalue(), "the state of the training")
        self.saved = self.epoch

    def _resume(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            made_of, model = state["made_of"], state["model"]
        except Exception as error:
            raise InputError(f"{path} is damaged and cannot be resumed; remove it to start again") from error
        changed = difference(made_of, self.made_of)
        if changed is not None:
            raise InputError(cannot_resume(path, changed))
        with torch.no_grad():
            for name, tensor in (self.trainable | self.statistics).items():
                tensor.copy_(model[name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load(state["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step, self.waited, self.best, self.best_epoch = state["progress"]
        self.rows, self.saved = state["rows"], self.epoch
        self.say(f"resumed after epoch {self.epoch}")
        if self.waited >= self.recipe.patience:
            self.say(f"validations without a better score: {self.waited}; with more --patience it goes on")


def _accelerator(precision: str) -> Accelerator:
    """Accelerate, with a precision that may be another than that of an earlier training in this process.

    Accelerate keeps the precision in a state that a process has once, and which only a private function resets.
    """
    if precision == "fp16" and PartialState().device.type == "cpu":
        raise InputError("the precision fp16 needs a GPU; on the CPU train with bf16 or no")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision)


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    """What training changes beside parameters, by name: the running statistics of batch norms."""
    return {
        f"{name}.{kind}": statistic
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for kind, statistic in module.named_buffers()
    }


def _unsynced(trainer: Trainer, unsynced: bool) -> Any:
    """A context in which gradients stay in their process if ``unsynced``, as they do for all parts but the last."""
    module: nn.Module = trainer.parallel
    return trainer.accelerator.no_sync(module) if unsynced else torch.enable_grad()
