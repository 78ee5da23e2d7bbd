"""The network that every method with a pretrained tower must beat: a UNet that is trained from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ht_kernels.files import write_whole


@dataclass(frozen=True)
class Config:
    """What the Trainer asks of a model's configuration."""

    task: str = "segmentation"
    num_classes: int = 2


class UNet(nn.Module):
    """MONAI's UNet with residual units; it has what :class:`ht_kernels.train.Trainer` needs of a model.

    ``model(images)`` takes gray images (B, 1, H, W) in [0, 1], H and W multiples of 16, and returns logits
    (B, 2, H, W). Its norms are over each image, so that averaged weights need no statistics of their own.
    """

    def __init__(self) -> None:
        from monai.networks.nets import UNet as Monai  # type: ignore[attr-defined]

        super().__init__()
        self.config = Config()
        self.network = Monai(2, 1, 2, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 2, H, W)."""
        logits: Tensor = self.network(images)
        return logits

    def save(self, path: Path) -> None:
        """Write the weights. The file appears complete or not at all."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_whole(path, save(weights), "the weights")

    @classmethod
    def load(cls, path: Path) -> UNet:
        """Make a UNet with the weights that :meth:`save` wrote."""
        model = cls()
        model.load_state_dict(load_file(path))
        return model.requires_grad_(False)


def start(seed: int) -> UNet:
    """A new UNet, whose initial weights depend on the seed alone."""
    torch.manual_seed(seed)
    return UNet()
