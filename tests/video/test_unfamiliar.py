"""Frames that are unlike the training images: withheld or outlined, counted, and kept out of smoothing."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ht_kernels as ht
from helpers.clips import folded, frames, write_dicom
from ht_kernels.cli import main
from ht_kernels.cli.stream import add_arguments  # noqa: F401
from ht_kernels.deploy import Session
from ht_kernels.errors import InputError
from ht_kernels.nn import Familiarity
from ht_kernels.nn.familiarity import pooled
from ht_kernels.video import Stream, open_source, record
from ht_kernels.video.overlay import _DOUBTFUL

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(120)]
