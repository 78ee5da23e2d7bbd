"""What several test files share. ``tests/conftest.py`` puts the folder above this one on the path."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout; the package that is tested may be installed elsewhere."""
