"""The networks without a tower that methods with one are compared with: a UNet and a ResNet, trained as a whole.

The UNet is MONAI's and the ResNet torchvision's. Their checkpoints are safetensors files of all weights, whose metadata
has the arguments of :class:`BaselineConfig` as a JSON text, and beside them ``trained_on``, as other checkpoints have.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ht_kernels.clip.checkpoint import BASELINE
from ht_kernels.clip.htclip import PartCount, TrainableSummary
from ht_kernels.clip.weight_file import read_content, read_metadata, read_weights
from ht_kernels.errors import InputError, reason
from ht_kernels.files import write_whole

from .recipe import BASELINES

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
IMAGENET = "imagenet"
"""The name of torchvision's weights of a ResNet, which it downloads."""


@dataclass(frozen=True)
class BaselineConfig:
    """What a :class:`Baseline` is.

    Attributes:
        network: ``unet`` for segmentation, or one of :data:`RESNETS` for classification.
        num_classes: the number of logits K, 2 or more.
        image_size: the side of the square images that it is trained on.
        class_names: a name for each class, or None.
        pretrained: where the weights came from that training started with; None for random ones.

    Raises:
        InputError: the network is unknown, images of this size do not pass through it, ``num_classes`` is no whole
            number of 2 or more, or there are not as many names.
    """

    network: str
    num_classes: int = 2
    image_size: int = 224
    class_names: tuple[str, ...] | None = None
    pretrained: str | None = None

    def __post_init__(self) -> None:
        if self.network not in ("unet", *RESNETS):
            raise InputError(f"the network {self.network!r} is unknown; expected unet, {', '.join(RESNETS)}")
        if type(self.num_classes) is not int or self.num_classes < 2:
            raise InputError(f"num_classes is {self.num_classes!r}, expected a whole number, 2 or more")
        names = self.class_names
        texts = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
        if names is not None and not (texts and len(names) == self.num_classes):
            raise InputError(f"class_names is {names!r}, expected a tuple of num_classes = {self.num_classes} texts")
        step, least = (16, 32) if self.network == "unet" else (32, 64)
        if type(self.image_size) is not int or self.image_size % step or self.image_size < least:
            raise InputError(
                f"a {self.network} takes images whose side is a multiple of {step} pixels, {least} or more, and not "
                f"{self.image_size!r}"
            )

    @property
    def task(self) -> str:
        """``segmentation`` for a UNet, ``classification`` for a ResNet."""
        return "segmentation" if self.network == "unet" else "classification"


class Baseline(nn.Module):
    """A UNet or a ResNet, with what :class:`ht_kernels.train.Trainer` and ``evaluate`` need of a model.

    ``model(images)`` takes gray images (B, 1, H, W) with values in [0, 1], and returns logits: (B, K, H, W) of a UNet,
    (B, K) of a ResNet. The UNet has five levels of 16 to 256 channels with residual units, and norms over each image.
    The ResNet's batch norms are over the images that a process computes at once.
    """

    familiarity = None
    started_from = None
    trained_on: dict[str, str] | None = None

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.config = config
        self.network: nn.Module
        if config.network == "unet":
            from monai.networks.nets import UNet  # type: ignore[attr-defined]

            widths = (16, 32, 64, 128, 256)
            self.network = UNet(2, 1, config.num_classes, channels=widths, strides=(2, 2, 2, 2), num_res_units=2)
        else:
            from torchvision.models import get_model  # type: ignore[import-untyped]

            self.network = get_model(config.network, num_classes=config.num_classes)
            self.network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K, H, W) or (B, K)."""
        logits: Tensor = self.network(images)
        return logits

    def trainable_summary(self) -> TrainableSummary:
        """The number of parameters, all of which are trained."""
        total = sum(p.numel() for p in self.parameters())
        return TrainableSummary((PartCount("network", total, total),))

    def save(self, path: str | Path) -> None:
        """Write weights and configuration. The file appears complete or not at all."""
        from safetensors.torch import save

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        header = asdict(self.config) | ({} if self.trained_on is None else {"trained_on": self.trained_on})
        write_whole(Path(path), save(tensors, metadata={BASELINE: json.dumps(header)}), "the checkpoint")

    @classmethod
    def load(cls, path: Path, image_size: int | None = None) -> Baseline:
        """Make a model from a file that :meth:`save` wrote, in evaluation mode.

        ``image_size`` is the side of the images that it shall take; None for that of its training.

        Raises:
            InputError: the file is missing, damaged or of something else, or images of the size do not pass.
        """
        tensors = read_content(path, "checkpoint file")
        metadata = read_metadata(path) or {}
        if BASELINE not in metadata:
            raise InputError(f"{path} is not the checkpoint of a UNet or ResNet that ht-kernels train wrote")
        try:
            options = json.loads(metadata[BASELINE])
            names, trained_on = options["class_names"], options.pop("trained_on", None)
            config = BaselineConfig(**options | {"class_names": tuple(names) if isinstance(names, list) else names})
            with torch.device("meta"):  # a damaged number then cannot build a huge network
                model = cls(config)
            model.trained_on = trained_on
            dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
            model.load_state_dict(tensors, assign=True)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            raise InputError(f"{path} is damaged: {reason(error)}") from error
        for name, dtype in dtypes.items():
            if tensors[name].dtype != dtype:
                raise InputError(f"{path} is damaged: {name} is {tensors[name].dtype}, expected {dtype}")
            if not tensors[name].isfinite().all():
                raise InputError(f"{path} is damaged: {name} has values that are not finite numbers")
        if image_size is not None:
            model.config = replace(config, image_size=image_size)
        return model.eval()


def new_baseline(
    method: str,
    task: str,
    num_classes: int = 2,
    class_names: Sequence[str] | None = None,
    image_size: int = 224,
    backbone: str | None = None,
    pretrained: str | None = None,
) -> Baseline:
    """Make the network of a method that has no tower. New weights are drawn from torch's random numbers.

    Args:
        method: ``unet`` or ``resnet``.
        task: ``segmentation`` for ``unet``, ``classification`` for ``resnet``.
        num_classes, class_names, image_size: as for :class:`BaselineConfig`.
        backbone: which ResNet, one of :data:`RESNETS`; None for ``resnet18``, as in the published code.
        pretrained: the weights that a ResNet starts with: a file of torchvision's or timm's ResNet of the same name, or
            :data:`IMAGENET`. The last layer, which tells classes apart, stays new.

    Raises:
        InputError: the method is not for the task, an option is not for it, or weights cannot be read or do not fit.
    """
    if method not in BASELINES or BASELINES[method] != task:
        raise InputError(f"--method {method} is for --task {BASELINES.get(method)}, and the task is {task}")
    if method == "unet" and (backbone or pretrained):
        raise InputError("a UNet is trained from scratch: leave out --backbone and --pretrained")
    network = method if method == "unet" else backbone or RESNETS[0]
    names = None if class_names is None else tuple(class_names)
    try:
        model = Baseline(BaselineConfig(network, num_classes, image_size, names, pretrained))
    except ImportError as error:
        raise InputError(f"--method {method} needs {error.name}: pip install 'ht-kernels[train]'") from error
    if pretrained is not None:
        _take(model, _imagenet(network) if pretrained == IMAGENET else read_weights(pretrained), pretrained)
    return model


def is_baseline(path: Path) -> bool:
    """Whether a file is the checkpoint of a :class:`Baseline`. One that is missing or damaged is none."""
    try:
        return path.is_file() and BASELINE in (read_metadata(path) or {})
    except Exception:  # safetensors raises different exceptions for different damage
        return False


def _take(model: Baseline, weights: dict[str, Tensor], source: str) -> None:
    """Give a ResNet all weights of another but those of the last layer.

    A gray image is one with three equal channels, so the first convolution takes the sum of its weights over channels.
    """
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("fc.")}
    if "conv1.weight" in kept:
        kept["conv1.weight"] = kept["conv1.weight"].sum(1, keepdim=True)
    own = {name: t for name, t in model.network.state_dict().items() if name.startswith("fc.")}
    try:
        model.network.load_state_dict(kept | own)
    except RuntimeError as error:
        raise InputError(f"{source} holds no weights of a {model.config.network}: {reason(error)}") from error


def _imagenet(network: str) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights

    try:
        weights: dict[str, Tensor] = get_model_weights(network).DEFAULT.get_state_dict(check_hash=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"torchvision's weights of {network} could not be downloaded ({reason(error)}): give --pretrained a file"
        ) from error
    return weights
