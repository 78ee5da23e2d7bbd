"""From a frame to what the models take, as published: gray, then resized."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .frames import Frame
from .source import Source

RESIZING = "bicubic with antialiasing, aspect ratio not kept"
"""How a frame is resized, in words."""


def preprocess(frame: Frame, size: tuple[int, int]) -> Tensor:
    """A frame, (H, W) or (H, W, 3) uint8, as uint8 tensor (1, 1, *size) with values 0 to 255.

    Gray is the ITU-R 601 luma, the resize Pillow's bicubic one, as in the published code; the aspect ratio is not kept.
    The scaling to [0, 1] and the repetition to three channels are folded into the model.
    """
    height, width = size
    image = Image.fromarray(frame).convert("L").resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image))[None, None]


def sample_frames(source: Source, size: tuple[int, int], count: int) -> Tensor:
    """Up to ``count`` frames, spread evenly over a clip, preprocessed: uint8 (B, 1, *size)."""
    step = max(1, (source.frame_count or 1) // count)
    chosen = itertools.islice(source, 0, count * step, step)
    return torch.cat([preprocess(frame, size) for frame in chosen])
