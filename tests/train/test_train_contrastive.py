"""Image-text tuning: the loss, what is trained, how batches are dealt out, and that it learns."""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import multiprocessing.forkserver as forkserver
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import open_clip
import pytest
import torch
import torch.distributed as dist

import ht_kernels as ht
from helpers.adapters import relative_error
from helpers.clip_folder import clip_folder
from helpers.layout import make_layout
from helpers.small_towers import IMAGE, small_clip
from helpers.training import SHORT
from ht_kernels.clip.injection import adapters
from ht_kernels.data import CaptionDataset, SegmentationDataset
from ht_kernels.data.phantom import Phantom, caption, simulate
from ht_kernels.errors import InputError
from ht_kernels.train import Examples, Recipe, Trainer, named_recipe, prepare, read_examples, start_from
from ht_kernels.train.losses import info_nce
from ht_kernels.train.methods import merged, uses_adapters
from ht_kernels.train.metrics import predict
from ht_kernels.train.retrieval import ranks, recalls
from ht_kernels.train.zero_shot import class_probabilities, embed_classes, fill


def build(method: str = "ht", task: str = "contrastive", dropout: float = 0.1) -> ht.HTCLIP:
    clip = small_clip("open_clip").float()
    torch.manual_seed(3)
    layers = None if uses_adapters(method) else ()
    dense = {"reduce_dim": 16, "feature_layers": (1, 2)} if task != "contrastive" else {}
    model = ht.HTCLIP(clip, task=task, bottleneck=8, adapter_layers=layers, **dense)
    for adapter in adapters(model.tower).values():
        adapter.dropout.p = dropout
    prepare(model, method)
    return model


def make_captions(root: Path) -> Path:
    """The layout of ``make_layout``, with captions; some images have two, and two images have the same."""
    make_layout(root)
    folder = root / "contrastive/BUSI"
    folder.mkdir(parents=True)
    rows = ["image,caption"]
    for split in ("train", "val", "test"):
        names = (root / f"segmentation/BUSI/{split}.txt").read_text().split()
        (folder / f"{split}.txt").write_text("\n".join(names))
        rows += [f'{name},"a mass, number {i // 2 * 2}"' for i, name in enumerate(names)]
    rows.append("BUSI_0.png,a second caption")
    (folder / "captions.csv").write_text("\n".join(rows))
    return root


def examples(root: Path, split: str, model: ht.HTCLIP) -> Examples:
    if model.config.task == "contrastive":
        return read_examples(CaptionDataset(root, "BUSI", split, model.preprocess))
    return read_examples(SegmentationDataset(root, "BUSI", split, IMAGE))


def trainer(root: Path, output: Path, method: str = "ht", task: str = "contrastive", **options: object) -> Trainer:
    model = build(method, task, options.pop("dropout", 0.1))  # type: ignore[arg-type]
    recipe = Recipe(method=method, **SHORT | options)  # type: ignore[arg-type]
    data = (examples(root, split, model) for split in ("train", "val"))
    return Trainer(model, recipe, *data, output, say=lambda _: None)


def digest(model: ht.HTCLIP, text: bool) -> str:
    """Of the frozen weights of one of the towers."""
    named = sorted((n, p) for n, p in model.state_dict().items() if n.startswith("clip_model.") and ".mona." not in n)
    chosen = [p for n, p in named if "lora_" not in n and n.startswith("clip_model.visual.") != text]
    return hashlib.sha256(b"".join(p.numpy().tobytes() for p in chosen)).hexdigest()


def test_the_loss() -> None:
    torch.manual_seed(0)
    images, texts = (torch.nn.functional.normalize(torch.randn(4, 8), dim=1) for _ in range(2))
    logits = images @ texts.t() / 0.07
    own = torch.arange(4)
    expected = sum(torch.nn.functional.cross_entropy(side, own) for side in (logits, logits.t())) / 2
    torch.testing.assert_close(info_nce(images, texts, torch.eye(4, dtype=torch.bool)), expected)
    # Images 0 and 2 have the same caption: neither is wrong for the other.
    texts[2] = texts[0]
    logits = images @ texts.t() / 0.07
    rows = [[0, 1, 3], [0, 1, 2, 3], [1, 2, 3], [0, 1, 2, 3]]
    losses = [side[i, row].logsumexp(0) - side[i, i] for side in (logits, logits.t()) for i, row in enumerate(rows)]
    captions = torch.tensor([5, 1, 5, 3])
    torch.testing.assert_close(info_nce(images, texts, captions[:, None] == captions), torch.stack(losses).mean())
    # Caption 1 fits image 3 too, and caption 3 fits image 3 alone.
    fits = torch.eye(4, dtype=torch.bool)
    fits[3, 1] = True
    of_images, of_texts = ([[0, 1, 2, 3]] * 4 for _ in range(2))
    of_images[3], of_texts[1] = [0, 2, 3], [0, 1, 2]
    losses = [
        side[i, row].logsumexp(0) - side[i, i]
        for side, rows in ((logits, of_images), (logits.t(), of_texts))
        for i, row in enumerate(rows)
    ]
    torch.testing.assert_close(info_nce(images, texts, fits), torch.stack(losses).mean())


def test_no_caption_of_an_image_is_wrong_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images may share a caption, and only one of them draws it."""
    root = make_captions(tmp_path / "data")
    table = root / "contrastive/BUSI/captions.csv"
    rows = table.read_text().replace('BUSI_6.png,"', 'BUSI_6.png,the first of its captions\nBUSI_6.png,"')
    table.write_text(f"{rows}\nBUSI_3.png,a second caption")
    run = trainer(root, tmp_path / "out")
    batch = [run.train.names.index(f"BUSI_{i}.png") for i in (0, 3, 4)]
    captions = ["a mass, number 0", "a second caption", "a mass, number 4"]
    drawn = {i: run.train.texts.index(caption) for i, caption in zip(batch, captions, strict=True)}
    monkeypatch.setattr(run, "_caption", drawn.__getitem__)
    seen: list[list[list[bool]]] = []

    def noted(images: torch.Tensor, texts: torch.Tensor, fits: torch.Tensor) -> torch.Tensor:
        seen.append(fits.tolist())
        return info_nce(images, texts, fits)

    for place in ("contrast", "trainer"):
        monkeypatch.setattr(f"ht_kernels.train.{place}.info_nce", noted)
    run._train_batch(batch)
    run._validate()
    assert seen == [[[True, True, False], [False, True, False], [False, False, True]], [[True, False], [True, True]]]


def test_ranks_and_recalls() -> None:
    texts = torch.eye(4)
    images = torch.tensor([[1.0, 0.5, 0, 0], [0.9, 0.5, 0, 0], [0, 0, 0.3, 0.3]])
    targets = torch.tensor([[0, -1], [1, 2], [3, -1]])
    of_images, of_texts = ranks(images, texts, targets)
    assert of_images.tolist() == [1, 2, 2]  # the last is as similar to a wrong caption as to its own
    assert of_texts.tolist() == [1, 2, 3, 1]
    found = recalls(of_images, of_texts)
    assert found["image_to_text_recall_1"] == pytest.approx(1 / 3) and found["image_to_text_recall_5"] == 1
    assert found["text_to_image_recall_1"] == 0.5 and found["mean_recall"] == pytest.approx((1 / 3 + 0.5 + 4) / 6)


@pytest.mark.parametrize("method", ["ht", "lora", "full", "all"])
def test_only_what_the_method_says_changes(method: str, tmp_path: Path) -> None:
    root = make_captions(tmp_path / "data")
    run, before = trainer(root, tmp_path / "out", method), build(method)
    trainable = {name for name, p in run.model.named_parameters() if p.requires_grad}
    run.run()
    model = run.model
    assert digest(model, text=True) == digest(before, text=True)
    assert (digest(model, text=False) == digest(before, text=False)) == (method not in ("full", "all"))
    old = dict(before.named_parameters())
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, old[name])}
    if method == "lora":
        # Both matrices of the update of all four maps of attention, in all four blocks.
        assert changed == trainable and len(changed) == 2 * 2 * 4
        assert {name.split("attn.")[1].split(".")[0] for name in changed} == {"in_proj", "out_proj"}
    assert changed <= trainable and len(changed) > len(trainable) // 2
    images = torch.rand(2, 3, IMAGE, IMAGE)
    with torch.no_grad():
        expected, got = model.eval()(images), merged(model, method).eval()(images)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    again = ht.HTCLIP.from_checkpoint(tmp_path / "out/best.safetensors", backbone=small_clip("open_clip").float())
    assert again.config.task == "contrastive"


def test_lora_of_a_dense_task_reaches_packed_attention(tmp_path: Path) -> None:
    root = make_captions(tmp_path / "data")
    run, before = trainer(root, tmp_path / "out", "lora", "segmentation"), build("lora", "segmentation")
    run.run()
    old = dict(before.named_parameters())
    changed = {name for name, p in run.model.named_parameters() if "lora_" in name and not torch.equal(p, old[name])}
    assert len(changed) == 2 * 2 * 3  # blocks 0, 1 and 2
    assert digest(run.model, text=False) == digest(before, text=False)
    saved = merged(run.model, "lora").eval()
    images = torch.rand(2, 3, IMAGE, IMAGE)
    with torch.no_grad():
        torch.testing.assert_close(ht.fold(saved)(images), run.model.eval()(images), atol=1e-4, rtol=1e-4)


def test_there_are_no_heads_to_train_alone() -> None:
    with pytest.raises(InputError, match="a contrastive model has none"):
        build("heads")


def test_captions_are_drawn_by_seed_and_epoch(tmp_path: Path) -> None:
    run = trainer(make_captions(tmp_path / "data"), tmp_path / "out")
    place = run.train.names.index("BUSI_0.png")

    def drawn() -> list[int]:
        found = []
        for run.epoch in range(20):
            found.append(run._caption(place))
        return found

    first = drawn()
    assert first == drawn() and len(set(first)) == 2


def test_the_published_recipe_is_a_plain_loop(tmp_path: Path) -> None:
    """Two parts of two images in a step, the fifth image dropped, the text tower in training mode, least loss kept."""
    root = make_captions(tmp_path / "data")
    options = {"epochs": 3, "batch": 4, "accumulate": 2, "learning_rate": 1e-2, "lora_dropout": 0.0}
    recipe = dataclasses.replace(named_recipe("published", "contrastive"), **options)
    model, plain = build(dropout=0.0), build(dropout=0.0)
    data = [examples(root, split, model) for split in ("train", "val")]
    run = Trainer(model, recipe, *data, tmp_path / "out", say=lambda _: None)
    modes: list[bool] = []
    model.clip_model.transformer.register_forward_hook(lambda module, *_: modes.append(module.training))
    outcome = run.run()
    assert set(modes) == {True, False} and not model.clip_model.transformer.training
    trained = [p for p in plain.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-2, (0.9, 0.95), weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3, eta_min=1e-8)

    def loss(examples: Examples, places: list[int], captions: list[int]) -> torch.Tensor:
        images = plain.encode_image(examples.images[places].float() / 255)
        logits = images @ plain.encode_text([examples.texts[i] for i in captions]).t() / 0.07
        own = torch.arange(len(places))
        return sum(torch.nn.functional.cross_entropy(side, own) for side in (logits, logits.t())) / 2

    expected = []
    for run.epoch in range(3):
        order = list(range(5))
        random.Random(f"{recipe.seed} {run.epoch}").shuffle(order)
        parts = order[:2], order[2:4]
        losses = [loss(data[0], part, [run._caption(i) for i in part]) for part in parts]
        (sum(losses) / 2).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        with torch.no_grad():
            expected.append((float(sum(losses) / 2), float(loss(data[1], [0, 1], data[1].targets[:, 0].tolist()))))
    assert len(data[1]) == 2 and len(data[1].texts) == 1  # equal captions are wrong for each other
    found = [(row["loss"], row["val_loss"]) for row in run.rows]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-3, atol=1e-4)
    assert outcome.best == min(row["val_loss"] for row in run.rows)
    assert recipe.patience == 10 and recipe.augment == "none" and recipe.clip == 1


def test_images_that_do_not_fill_a_part_are_dropped_behind_a_whole_batch(tmp_path: Path) -> None:
    """Of five images in batches of 3 and parts of 2, four are trained on: three in a step, and one in the next."""
    options = {"batch": 3, "accumulate": 2, "negatives": "part", "drop_last": True}
    run = trainer(make_captions(tmp_path / "data"), tmp_path / "out", **options)
    batches: list[int] = []
    run._train_batch = lambda batch: batches.append(len(batch)) or 1.0
    assert run._train_epoch() == 1.0 and batches == [3, 1]


def test_dropout_of_the_text_tower(tmp_path: Path) -> None:
    root = make_captions(tmp_path / "data")
    run, still = (trainer(root, tmp_path / name, text_dropout=name == "on") for name in ("on", "off"))
    run.model.clip_model.transformer.resblocks[0].mlp.append(torch.nn.Dropout(0.5))
    run.model.eval()
    captions = torch.tensor([0, 1, 0])
    first, again = run._embed_captions(captions), run._embed_captions(captions)
    assert torch.equal(first, again) and not torch.allclose(first[0], first[2], atol=1e-3)
    run.step += 1
    assert not torch.allclose(run._embed_captions(captions), first, atol=1e-3)
    assert torch.equal(still._embed_captions(captions)[0], still._embed_captions(captions)[2])


def test_the_loss_is_for_captions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="select 'loss' is for contrastive, and this model is for segmentation"):
        trainer(make_captions(tmp_path / "data"), tmp_path / "out", task="segmentation", select="loss")


def gradients(root: Path, output: Path, task: str, batch: list[int], **options: object) -> dict[str, torch.Tensor]:
    """The loss of one batch, and its gradients by name."""
    run = trainer(root, output, "all", task, dropout=0.0, **options)
    run.optimizer.zero_grad = lambda: None
    run.parallel.train()
    loss = run._train_batch(batch)
    found = {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}
    return {"loss": torch.tensor(loss), **found}


BATCHES = ([0, 3, 1, 4, 2], [2])
"""Five images for two processes, and one, which leaves nothing for the second."""

WITHIN_PARTS = {"accumulate": 2, "negatives": "part"}
"""Options by which the five images are three parts, the last of one image."""


def work(rank: int, root: Path, output: Path, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for task in ("contrastive", "segmentation"):
        for accumulate in (1, 2):
            for i, batch in enumerate(BATCHES):
                found = gradients(root, output / "run", task, batch, accumulate=accumulate)
                torch.save(found, output / f"{task}{accumulate}{i}.{rank}")
    for i, batch in enumerate(BATCHES):
        found = gradients(root, output / "run", "contrastive", batch, **WITHIN_PARTS)
        torch.save(found, output / f"parts{i}.{rank}")
    dist.barrier()
    os._exit(0)  # gloo's threads may still hold tensors, and abort the process when they outlive the interpreter


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> ForkServerContext:
    """Processes that need not import everything again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ht_kernels.train", "monai.losses", "monai.metrics", "open_clip", "timm"])
    with pytest.MonkeyPatch.context() as patch:
        # The server looks for modules in its directory first: a checkout there, not built, would hide the package.
        patch.chdir(tmp_path_factory.mktemp("server"))
        forkserver.ensure_running()
    return context


def test_two_processes_get_the_loss_and_gradients_of_one(tmp_path: Path, forks: ForkServerContext) -> None:
    root = make_captions(tmp_path / "data")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [forks.Process(target=work, args=(rank, root, tmp_path, port), daemon=True) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    for i, batch in enumerate(BATCHES):
        expected = gradients(root, tmp_path / "one", "contrastive", batch, **WITHIN_PARTS)
        for rank in (0, 1):
            found = torch.load(tmp_path / f"parts{i}.{rank}", weights_only=True)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                assert relative_error(found[name], value) < 1e-4, (i, rank, name)
    for task in ("contrastive", "segmentation"):
        for i, batch in enumerate(BATCHES):
            expected = gradients(root, tmp_path / "one", task, batch)
            for accumulate in (1, 2):
                for rank in (0, 1):
                    found = torch.load(tmp_path / f"{task}{accumulate}{i}.{rank}", weights_only=True)
                    assert found.keys() == expected.keys()
                    for name, value in expected.items():
                        assert relative_error(found[name], value) < 1e-4, (task, accumulate, i, rank, name)


def die(root: Path, output: Path, task: str) -> None:
    torch.set_num_threads(1)
    run = trainer(root, output, "ht", task, epochs=4)
    train_batch = run._train_batch

    def dying(batch: list[int]) -> float:
        if run.epoch == 2 and run.step % 2 == 1:  # the second of the two batches of the third epoch
            os.kill(os.getpid(), signal.SIGKILL)
        return train_batch(batch)

    run._train_batch = dying  # type: ignore[method-assign]
    run.run()


def finish(root: Path, output: Path, task: str) -> None:
    torch.set_num_threads(1)
    run = trainer(root, output, "ht", task, epochs=4)
    first = run.epoch
    outcome = run.run()
    weights = [p.detach() for p in run.model.parameters()]
    torch.save({"first": first, "outcome": dataclasses.astuple(outcome), "weights": weights}, output / "end.pt")


def test_killed_in_the_middle_of_an_epoch(tmp_path: Path, forks: ForkServerContext) -> None:
    """All in processes of one kind: what other tests load may change how this one rounds."""
    root = make_captions(tmp_path / "data")
    tasks = "contrastive", "segmentation"

    def run(target: Callable[[Path, Path, str], None], prefix: str) -> list[int | None]:
        processes = [forks.Process(target=target, args=(root, tmp_path / f"{prefix} {task}", task)) for task in tasks]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return [process.exitcode for process in processes]

    assert run(finish, "whole") == [0, 0]
    assert run(die, "killed") == [-signal.SIGKILL] * 2
    assert run(finish, "killed") == [0, 0]
    for task in tasks:
        whole, resumed = (torch.load(tmp_path / f"{kind} {task}" / "end.pt") for kind in ("whole", "killed"))
        assert (whole["first"], resumed["first"]) == (0, 2) and resumed["outcome"] == whole["outcome"]
        for a, b in zip(whole["weights"], resumed["weights"], strict=True):
            assert torch.equal(a, b)
        files = (tmp_path / f"{kind} {task}" / "best.safetensors" for kind in ("whole", "killed"))
        assert len({file.read_bytes() for file in files}) == 1


def test_starts_from_other_tasks_and_others_from_it(tmp_path: Path) -> None:
    place = f"local-dir:{clip_folder(tmp_path / 'clip')}"
    torch.manual_seed(5)
    dense = ht.HTCLIP(place, reduce_dim=16, feature_layers=(1, 2), bottleneck=8)
    dense.save(tmp_path / "dense.safetensors")
    model = start_from(tmp_path / "dense.safetensors", "ht", keep_adapters=True, task="contrastive")
    kept, given = adapters(model.tower), adapters(dense.tower)
    assert kept.keys() == given.keys()
    for i, adapter in kept.items():
        assert torch.equal(adapter.project1.weight, given[i].project1.weight)
    model.pixel_mean[0] = 0.25
    model.save(tmp_path / "model.safetensors")
    assert start_from(tmp_path / "model.safetensors", "ht", task="contrastive").pixel_mean[0] == 0.25
    options = {"task": "segmentation", "num_classes": 2, "feature_layers": (1, 2)}
    again = start_from(tmp_path / "model.safetensors", "ht", keep_adapters=True, **options)
    assert again.config.reduce_dim == 512
    assert torch.equal(adapters(again.tower)[0].project1.weight, given[0].project1.weight)


def test_another_training_is_not_resumed(tmp_path: Path) -> None:
    root = make_captions(tmp_path / "data")
    trainer(root, tmp_path / "out", epochs=1).run()
    assert trainer(root, tmp_path / "out", epochs=2).epoch == 1  # more epochs are the same training
    with pytest.raises(InputError, match="the option batch was 4 and is 3 now; train as before, name another"):
        trainer(root, tmp_path / "out", epochs=1, batch=3)
    with pytest.raises(InputError, match="the option method was ht and is full now"):
        trainer(root, tmp_path / "out", "full", epochs=1)
    with pytest.raises(InputError, match="the model's task was contrastive and is segmentation now"):
        trainer(root, tmp_path / "out", task="segmentation", epochs=1)
    captions = root / "contrastive/BUSI/captions.csv"
    text = captions.read_text()
    captions.write_text(text.replace("a second caption", "another caption"))
    with pytest.raises(InputError, match="the training data changed"):
        trainer(root, tmp_path / "out", epochs=1)
    captions.write_text(text)
    run = trainer(root, tmp_path / "out", epochs=1)
    with torch.no_grad():
        run.model.clip_model.ln_final.bias[0] += 1e-3
    with pytest.raises(InputError, match="the frozen weights changed"):
        Trainer(run.model, run.recipe, run.train, run.val, run.output)


def test_one_log_of_a_training_that_was_continued(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    root = make_captions(tmp_path / "data")
    for epochs in (2, 4):
        run = trainer(root, tmp_path / "out", epochs=epochs)
        if epochs == 4:
            time.sleep(1.1)  # TensorBoard orders event files by the second in their names
            run.epoch = 1  # as after a kill between the log of epoch 2 and its last.pt
            run.rows = run.rows[:1]
        run.run()
    log = EventAccumulator(str(tmp_path / "out/tensorboard")).Reload()
    for name in ("loss", "learning_rate", "val_mean_recall"):
        assert [event.step for event in log.Scalars(name)] == [1, 2, 3, 4]
    assert [row.split(",")[0] for row in (tmp_path / "out/log.csv").read_text().split()] == ["epoch", *"1234"]


KINDS = ("cystic", "hyperechoic")


def phantoms(seed: int, count: int) -> tuple[Examples, torch.Tensor]:
    """Images 64x64 with captions, and labels."""
    samples = [simulate(Phantom(kind=KINDS[i % 2], size=(64, 64)), seed * 1000 + i) for i in range(count)]
    captions = [caption(sample) for sample in samples]
    texts = tuple(dict.fromkeys(captions))
    images = torch.stack([torch.from_numpy(sample.image)[None] for sample in samples])
    targets = torch.tensor([[texts.index(text)] for text in captions])
    return Examples(images, targets, tuple(map(str, range(count))), {}, texts), torch.arange(count) % 2


def test_learns_what_captions_say(tmp_path: Path) -> None:
    train, val = phantoms(1, 96)[0], phantoms(2, 8)[0]
    unseen, labels = phantoms(3, 48)
    torch.manual_seed(0)
    vision = {"image_size": 64, "patch_size": 16, "width": 64, "layers": 2, "head_width": 16}
    text = {"context_length": 16, "width": 64, "heads": 4, "layers": 2}
    model = ht.HTCLIP(open_clip.CLIP(64, vision, text), task="contrastive", bottleneck=16)
    prepare(model, "all")
    recipe = Recipe(method="all", epochs=12, batch=16, learning_rate=3e-3, augment="none")
    Trainer(model, recipe, train, val, tmp_path, say=lambda _: None).run()
    places = [f"{row} {column}" for row in ("upper", "middle", "lower") for column in ("left", "centre", "right")]
    classes = embed_classes(model, fill(KINDS, [f"a {{}} lesion at the {place}" for place in places]))
    guesses = class_probabilities(predict(model, unseen, range(48), 32, "cpu"), classes.cpu()).argmax(1)
    assert (guesses == labels).double().mean() > 0.8  # chance is 0.5, with a standard deviation of 0.072
