"""HTCLIP: a frozen CLIP tower with Hybrid-tuning adapters, and a feature pyramid and head or the text tower."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ht_kernels.arguments import need_whole, whole
from ht_kernels.choices import NORMALIZATIONS, TASKS
from ht_kernels.distance_scale import NOT_CALIBRATED
from ht_kernels.errors import InputError
from ht_kernels.folding import blocks_to_run, fold_pyramid
from ht_kernels.functional import feature_pyramid
from ht_kernels.nn import ClassificationHead, Familiarity, HTAdapter, SegmentationHead, pyramid
from ht_kernels.nn.familiarity import pooled
from ht_kernels.predict_method import Predicts
from ht_kernels.weights.named import names_weights

from .backbone import load_backbone
from .injection import adapters, inject, resize
from .text import Preprocessing, Tokenizer, find_preprocessing, find_tokenizer
from .towers import find_tower

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class HTCLIPConfig:
    """The arguments of an :class:`HTCLIP`: ``HTCLIP(**vars(config))`` makes another one.

    ``backbone`` is None if the caller passed a module. ``image_size`` is the tower's image size, or None if the images
    are not square. For a contrastive model, which has no head, ``num_classes`` and ``reduce_dim`` are 0 and
    ``feature_layers`` is empty. ``normalization`` is one of :data:`ht_kernels.choices.NORMALIZATIONS`.
    """

    backbone: str | None
    pretrained: str | None
    task: str
    num_classes: int
    variant: str
    bottleneck: int
    reduce_dim: int
    feature_layers: tuple[int, ...]
    adapter_layers: int | tuple[int, ...] | None
    image_size: int | None
    class_names: tuple[str, ...] | None
    spectral: str | None
    normalization: str

    @property
    def names_weights(self) -> bool:
        """Whether the tower's weights are named, as :func:`ht_kernels.weights.named.names_weights` says."""
        return names_weights(self.backbone, self.pretrained)


class PartCount(NamedTuple):
    """The numbers of trainable and of all parameters in one part of a model."""

    part: str
    trainable: int
    total: int


class TrainableSummary(tuple[PartCount, ...]):
    """A :class:`PartCount` for each part of a model and one for the whole model. It prints as a table."""

    def __str__(self) -> str:
        lines = [f"{'part':<10}{'trainable':>14}{'parameters':>14}"]
        lines += [f"{row.part:<10}{row.trainable:>14,}{row.total:>14,}" for row in self]
        return "\n".join(lines)


class HTCLIP(Predicts, nn.Module):
    """A frozen CLIP vision tower with an adapter after each block, and a segmentation or classification head.

    ``model(images)`` takes floating-point images of the tower's image size, RGB (B, 3, H, W) or gray (B, 1, H, W), with
    values in [0, 1]. It returns logits, (B, K, H, W) for segmentation or (B, K) for classification. Blocks after the
    last feature layer are not run. ``train()`` does not affect the tower, which is frozen and in evaluation mode.

    ``task="contrastive"`` keeps the whole CLIP model, with the text tower frozen, and has no head. Then all blocks, the
    final norm and the projection are run, ``model(images)`` is :meth:`encode_image`, and the embeddings can be compared
    with those of :meth:`encode_text`. The CLIP model's own preprocessing applies: :meth:`preprocess` resizes an image,
    and ``encode_image`` normalizes it by mean and standard deviation, unless ``normalization`` is ``published``.

    ``familiarity`` is None, or says how far an image is from the training images, in the distances that
    :meth:`with_distance` returns; :func:`ht_kernels.train.calibration.calibrate` sets it. It fits the weights that it
    was made with: after further training, calibrate again or set it to None.

    ``draws_tower`` says that the tower's weights are random: its backbone is a name that comes with no weights, and
    neither ``pretrained`` nor a checkpoint gave any. :meth:`save` then stores the tower too.

    State-dict names are the published ones: ``clip_model.*.mona.*``, ``reduces.{l}``, ``blocks.{l}``,
    ``seg_head.1``, ``cls_head.*``.

    Args:
        backbone: an open_clip name, ``hf-hub:ORG/REPO``, ``local-dir:FOLDER``, ``timm/NAME``
            (:func:`ht_kernels.clip.backbone.load_backbone`), or a module: a CLIP model or a vision tower. A module is
            changed in place: it is frozen, and gets adapters unless it has them. For ``contrastive`` it must have a
            text tower.
        pretrained: a tag, the path of a weights file, or None. Only for a backbone given by name.
        task: ``segmentation``, ``classification`` or ``contrastive``. ``contrastive`` ignores the arguments of heads:
            ``num_classes``, ``reduce_dim``, ``feature_layers`` and ``class_names``.
        num_classes: the number of logits K: one for each class, background included, or a single one for two classes,
            where class 1 is where it is above 0.
        variant: the variant of the adapters.
        bottleneck: the bottleneck width C of the adapters.
        reduce_dim: the width R of the pyramid.
        feature_layers: the blocks that the pyramid reads, as increasing indices from 0.
        adapter_layers: the blocks that get an adapter, as for :func:`ht_kernels.inject`.
        image_size: the side of the square images in pixels, a multiple of the patch size; None for the tower's own
            image size. If it differs from the tower's, the position embedding is resampled.
        class_names: a name for each of the K logits, stored in the configuration.
        spectral: the form of the adapters' spectral filter, as for :func:`ht_kernels.inject`.
        start: how new adapters start, as for :func:`ht_kernels.inject`. It is not part of the configuration, because a
            trained model does not depend on it.
        normalization: one of clip and published; None for the task's own: ``clip`` for ``contrastive``, and for the
            other tasks ``published``, the only one that they have. Adapters fit the one that they were trained with.

    Raises:
        ValueError: an argument does not fit; the message names it.
        InputError: the backbone or its weights cannot be loaded, the tower is not a vision transformer, it cannot take
            images of ``image_size``, or the task needs a text tower and the backbone has none.
    """

    reduces: nn.ModuleList
    blocks: nn.ModuleList
    seg_head: SegmentationHead
    cls_head: ClassificationHead
    pixel_mean: Tensor
    pixel_std: Tensor
    familiarity: Familiarity | None
    draws_tower: bool

    def __init__(
        self,
        backbone: str | nn.Module = "ViT-B-16",
        pretrained: str | None = None,
        task: str = "segmentation",
        num_classes: int = 2,
        variant: str = "hybrid",
        bottleneck: int = 64,
        reduce_dim: int = 512,
        feature_layers: Sequence[int] = (3, 6, 9),
        adapter_layers: int | Iterable[int] | None = None,
        image_size: int | None = None,
        class_names: Sequence[str] | None = None,
        spectral: str | None = None,
        start: str = "published",
        normalization: str | None = None,
    ) -> None:
        super().__init__()
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
        contrastive = task == "contrastive"
        if not isinstance(feature_layers, Iterable):
            raise TypeError(f"feature_layers must be numbers of blocks, such as (3, 6, 9), got {feature_layers!r}")
        num_classes, reduce_dim = need_whole("num_classes", num_classes), need_whole("reduce_dim", reduce_dim)
        bottleneck = need_whole("bottleneck", bottleneck)
        image_size = None if image_size is None else need_whole("image_size", image_size)
        if contrastive:
            num_classes, reduce_dim, feature_layers, class_names = 0, 0, (), None
        elif num_classes < 1 or reduce_dim < 1:
            raise ValueError(f"num_classes and reduce_dim must be positive, got {num_classes} and {reduce_dim}")
        normalization = normalization or ("clip" if contrastive else "published")
        known = NORMALIZATIONS if contrastive else ("published",)
        if normalization not in known:
            raise ValueError(f"normalization for {task} must be {' or '.join(known)}, got {normalization!r}")
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"class_names must have num_classes = {num_classes} names, got {len(class_names)}")
        if isinstance(backbone, nn.Module) and pretrained is not None:
            raise ValueError(f"pretrained={pretrained!r} goes with a backbone by name, not with a module")
        clip_model = (
            load_backbone(backbone, pretrained, image_size, contrastive) if isinstance(backbone, str) else backbone
        )
        tower = find_tower(clip_model)
        if image_size is not None:
            resize(tower, image_size)
        layers = tuple(need_whole("feature_layers", layer) for layer in feature_layers)
        increasing = layers and list(layers) == sorted(set(layers))
        if not contrastive and not (increasing and layers[0] >= 0 and layers[-1] < len(tower.blocks)):
            raise ValueError(
                f"feature_layers must be increasing indices of the tower's {len(tower.blocks)} blocks (0 to "
                f"{len(tower.blocks) - 1}), got {layers}"
            )
        if adapter_layers is not None and not isinstance(adapter_layers, int):
            one = whole(adapter_layers)
            several = adapter_layers if isinstance(adapter_layers, Iterable) else ()
            adapter_layers = tuple(need_whole("adapter_layers", i) for i in several) if one is None else one
        tokenizer = find_tokenizer(backbone) if contrastive else None  # before the backbone is changed
        # Heads are initialised before adapters, so that one seed gives the same heads for every kind of adapter.
        parts: dict[str, nn.Module] = {}
        if not contrastive:
            parts["reduces"], parts["blocks"] = pyramid(tower.dim, reduce_dim, len(layers))
        if task == "segmentation":
            parts["seg_head"] = SegmentationHead(reduce_dim, num_classes)
        elif task == "classification":
            parts["cls_head"] = ClassificationHead(reduce_dim, num_classes, hidden=not tower.batch_first)
        present = adapters(tower)
        if not present:
            inject(clip_model, variant, bottleneck, adapter_layers, spectral, start)
        for i, adapter in present.items():
            if not isinstance(adapter, HTAdapter):
                raise ValueError(
                    f"block {i} of the backbone has a {type(adapter).__name__}, which is not an adapter of this "
                    "library; call ht_kernels.accelerate on a model with published adapters first"
                )
            found = adapter.variant, adapter.project1.out_features, adapter.spectral
            if found != (variant, bottleneck, spectral):
                raise ValueError(
                    f"block {i} of the backbone has an adapter {found}, expected (variant, bottleneck, spectral) = "
                    f"{(variant, bottleneck, spectral)}"
                )

        self.clip_model = clip_model
        self.tower = tower
        self.register_module("familiarity", None)
        self.from_file: frozenset[str] = frozenset()  # tower weights that a checkpoint set
        self.resampled: frozenset[str] = frozenset()  # tower weights that resize changed
        self.started_from: str | None = None  # a hash of what ht_kernels.train.start_from took from a checkpoint
        self.trained_on: dict[str, str] | None = None  # hashes of images, as ht_kernels.train.trained_on notes them
        for name, part in parts.items():
            setattr(self, name, part)
        if tokenizer is not None:
            self.tokenizer: Tokenizer = tokenizer
            preprocessing = self._find_preprocessing()
            plain = normalization == "published"
            self.register_buffer("pixel_mean", torch.tensor((0.0,) * 3 if plain else preprocessing.mean))
            self.register_buffer("pixel_std", torch.tensor((1.0,) * 3 if plain else preprocessing.std))
        self.config = HTCLIPConfig(
            backbone=backbone if isinstance(backbone, str) else None,
            pretrained=pretrained,
            task=task,
            num_classes=num_classes,
            variant=variant,
            bottleneck=bottleneck,
            reduce_dim=reduce_dim,
            feature_layers=layers,
            adapter_layers=adapter_layers,
            image_size=tower.image_size[0] if tower.image_size[0] == tower.image_size[1] else None,
            class_names=None if class_names is None else tuple(class_names),
            spectral=spectral,
            normalization=normalization,
        )
        # Random weights cannot be found again by their name, so checkpoints hold them.
        self.draws_tower = isinstance(backbone, str) and not self.config.names_weights
        like = tower.patch_embedding.weight
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        for part in self._trainable_parts():
            part.to(like.device, dtype)
        clip_model.requires_grad_(False)
        for adapter in adapters(tower).values():
            adapter.requires_grad_(True)
        self.train()

    @classmethod
    def from_checkpoint(cls, path: str | Path, **overrides: Any) -> HTCLIP:
        """Load a checkpoint: a file in our format or a published one, or ``"breast"`` or ``"phantom"``, which ship.

        :func:`ht_kernels.clip.checkpoint.load` describes the arguments.
        """
        from .checkpoint import load

        return load(path, **overrides)

    def to_spectral(self, form: str) -> HTCLIP:
        """Replace every adapter's gain by a spectral filter, in place; see :meth:`ht_kernels.HTAdapter.to_spectral`."""
        for adapter in adapters(self.tower).values():
            adapter.to_spectral(form, self.tower.grid)
        self.config = replace(self.config, spectral=form)
        return self

    def resize(self, image_size: int) -> HTCLIP:
        """Make the model take square images of another size, in place. The position embedding is resampled.

        Another size changes the features, so ``familiarity`` becomes None. :meth:`save` writes the resampled positions:
        those of the tower's own weights, resampled at once to the new size, would differ a little.

        Raises:
            InputError: ``image_size`` is not a multiple of the patch size, or the adapters have a full or shared
                spectral filter, which is bound to the patch grid.
        """
        image_size = need_whole("image_size", image_size)
        if self.tower.image_size != (image_size, image_size):
            self.familiarity = None
        shapes = {name: tensor.shape for name, tensor in self.state_dict().items()}
        resize(self.tower, image_size)
        if self.config.names_weights:
            self.resampled |= {name for name, tensor in self.state_dict().items() if tensor.shape != shapes[name]}
        if self.config.task == "contrastive":
            self._find_preprocessing()
        self.config = replace(self.config, image_size=image_size)
        return self

    def save(self, path: str | Path, tower: bool = False, dtype: torch.dtype | None = None) -> None:
        """Write adapters, heads and configuration to a file, with ``tower`` the frozen tower too.

        :func:`ht_kernels.clip.checkpoint.save` describes the arguments.
        """
        from .checkpoint import save

        save(self, path, tower, dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K, H, W) for segmentation, logits (B, K) for classification, or embeddings (B, E)."""
        if self.config.task == "contrastive":
            return self.encode_image(images)
        return self._logits(self.features(images))

    def with_distance(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and the distances (B,) of images from the training images, in one pass over the tower.

        ``images`` are as for ``model(images)``. ``model.familiarity.scale`` says which distances are usual.

        Raises:
            InputError: the model has no ``familiarity``.
        """
        if self.familiarity is None:
            raise InputError(NOT_CALIBRATED)
        features = self.features(images)
        return self._logits(features), self.familiarity(pooled(features))

    def _logits(self, features: list[Tensor]) -> Tensor:
        if self.config.task == "segmentation":
            head = self.seg_head
            scores = feature_pyramid(features, *fold_pyramid(self.reduces, self.blocks, head.weight, head.bias))
            return head.forward(scores, self.tower.grid, self.tower.image_size)
        # Dropout between the pyramid and the head prevents folding the head, so only the pooling is moved forward.
        pooled = feature_pyramid(features, *fold_pyramid(self.reduces, self.blocks, None, None), pool=True)
        logits: Tensor = self.cls_head(pooled)
        return logits

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the patch tokens (B, H*W, D) after each feature layer."""
        tower = self.tower
        x = tower.embed(self._pixels(images))
        features = []
        for i in range(self.depth):
            x = tower.blocks[i](x)
            if i in self.config.feature_layers:
                features.append(tower.patches(x))
        return features

    @property
    def holds_tower(self) -> bool:
        """Whether the tower's weights came from the model's own checkpoint, which has those of the blocks it runs."""
        return not self.config.names_weights and any(".mona." not in name for name in self.from_file)

    def tower_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the vision tower that the task uses, by name, without those of adapters."""
        tower, visual = self.tower, self.tower.visual
        if self.config.task == "contrastive":
            clip_model: Any = self.clip_model
            used = set(clip_model.visual.parameters())
        else:
            used = {p for name, p in visual.named_parameters(recurse=False) if name not in ("proj", "mask_token")}
            for part in (tower.patch_embedding, tower.pre_norm, *tower.blocks[: self.depth]):
                used |= set(part.parameters())
        return {name: p for name, p in self.named_parameters() if p in used and ".mona." not in name}

    def tower_names(self) -> set[str]:
        """The names of the tower's weights that the task uses; for ``contrastive`` those of the text tower too."""
        if self.config.task != "contrastive":
            return set(self.tower_parameters())
        return {name for name in self.state_dict() if name.startswith("clip_model.") and ".mona." not in name}

    @property
    def depth(self) -> int:
        """The number of blocks that are run: those up to the last feature layer, or all for ``contrastive``."""
        layers = self.config.feature_layers
        return blocks_to_run(layers) if layers else len(self.tower.blocks)

    def preprocess(self, image: Image) -> Tensor:
        """Turn an image of any size and mode into RGB (3, H, W) in [0, 1], as :meth:`encode_image` takes it.

        The image is resized, and cropped if the CLIP model's preprocessing does so.
        """
        self._need_text("preprocess")
        pixels: Tensor = self._resize(image)
        return pixels

    def encode_image(self, images: Tensor) -> Tensor:
        """Return the embeddings (B, E) of images, of unit length, in float32 or float64.

        ``images`` are as for ``model(images)``.
        """
        self._need_text("encode_image")
        pixels = self._pixels(images)
        mean, std = (t.to(pixels.dtype).view(3, 1, 1) for t in (self.pixel_mean, self.pixel_std))
        clip_model: Any = self.clip_model
        return _unit(clip_model.encode_image((pixels - mean) / std))

    def encode_text(self, texts: Sequence[str] | Tensor) -> Tensor:
        """Return the embeddings (B, E) of sentences, of unit length, in float32 or float64.

        Args:
            texts: sentences, or their tokens (B, L) int64. If the backbone was passed as a module, sentences are
                tokenized as for OpenAI's CLIP; if that is wrong for it, set ``model.tokenizer`` or pass tokens.
        """
        self._need_text("encode_text")
        if not isinstance(texts, Tensor):
            if isinstance(texts, str) or not texts:
                raise ValueError(f"texts must be one sentence or more in a sequence, got {texts!r}")
            texts = self.tokenizer(list(texts))
        clip_model: Any = self.clip_model
        return _unit(clip_model.encode_text(texts.to(self.pixel_mean.device)))

    def _find_preprocessing(self) -> Preprocessing:
        """Find the CLIP model's preprocessing, and resize images as it does."""
        found = find_preprocessing(self.clip_model, self.tower.image_size)
        self.resizing, self._resize = found.words, found.resize
        return found

    def _need_text(self, method: str) -> None:
        if self.config.task != "contrastive":
            raise ValueError(f"{method} goes with task='contrastive', and this model is for {self.config.task}")

    def _pixels(self, images: Tensor) -> Tensor:
        """Check images, and return them as (B, 3, H, W) in the tower's dtype."""
        tower = self.tower
        if not isinstance(images, Tensor):
            raise TypeError(
                f"images must be a tensor, got {type(images).__name__}: torch.from_numpy makes one of an array"
            )
        if images.dim() != 4 or images.shape[1] not in (1, 3) or images.shape[2:] != tower.image_size:
            height, width = tower.image_size
            raise ValueError(f"images must have shape (B, 1 or 3, {height}, {width}), got {tuple(images.shape)}")
        if not images.is_floating_point():
            raise TypeError(f"images must be floating point in [0, 1], got {images.dtype}; divide pixel values by 255")
        return images.to(tower.patch_embedding.weight.dtype).expand(-1, 3, -1, -1)

    def train(self, mode: bool = True) -> HTCLIP:
        """Set the mode of heads, LoRA and the adapters that are trained. Frozen parts stay in evaluation mode."""
        super().train(mode)
        self.clip_model.eval()
        for name, part in self.clip_model.named_modules():
            if name.endswith(".lora_dropout"):
                part.train(mode)
        for adapter in adapters(self.tower).values():
            adapter.train(mode and any(p.requires_grad for p in adapter.parameters()))
        return self

    def trainable_summary(self) -> TrainableSummary:
        """Count the trainable and all parameters of tower, adapters, pyramid, head and the whole model."""
        in_adapters = list(dict.fromkeys(p for a in adapters(self.tower).values() for p in a.parameters()))
        others = set(in_adapters)
        parts = {"tower": [p for p in self.clip_model.parameters() if p not in others], "adapters": in_adapters}
        if self.config.task != "contrastive":
            *levels, head = self._trainable_parts()
            parts["pyramid"] = [p for part in levels for p in part.parameters()]
            parts["head"] = list(head.parameters())
        parts["all"] = list(self.parameters())
        return TrainableSummary(
            PartCount(name, sum(p.numel() for p in ps if p.requires_grad), sum(p.numel() for p in ps))
            for name, ps in parts.items()
        )

    def _trainable_parts(self) -> list[nn.Module]:
        return [part for part in self.children() if part is not self.clip_model]


def _unit(embeddings: Tensor) -> Tensor:
    return F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1)
