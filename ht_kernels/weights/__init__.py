"""Weights that come with the package; see README.md beside this file."""

from pathlib import Path

PHANTOM = Path(__file__).with_name("phantom.safetensors")
"""Lesion segmentation, trained on simulated phantoms only; not for patients."""

BREAST = Path(__file__).with_name("breast.safetensors")
"""Lesion segmentation, trained on breast ultrasound images; not for patients."""
