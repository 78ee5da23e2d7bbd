"""How many inputs a fuzz test tries: few in each run of the suite, many on demand with ``pytest --fuzz``."""

from __future__ import annotations

from hypothesis import settings

MANY = 10_000
many = False
"""Whether --fuzz was given; tests/conftest.py sets it before tests are imported."""


def budget(usual: int) -> settings:
    """The settings of a fuzz test that usually tries ``usual`` inputs."""
    return settings(max_examples=MANY if many else usual, deadline=None)
