"""A fold of a cross-validation by its number, read without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ht_kernels.errors import InputError


@dataclass(frozen=True)
class Fold:
    """Fold ``number`` of ``count``, counted from 0.

    Raises:
        InputError: there are less than two, or there is no such fold.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count or self.count < 2:
            raise InputError(f"{_came(f'{self.number}/{self.count}')} 2 or more folds, counted from 0")

    @classmethod
    def parse(cls, text: str) -> Fold:
        """A fold as the command line takes it, such as 0/5.

        Raises:
            InputError: it is none.
        """
        written = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text, re.ASCII)
        if written is None:
            raise InputError(f"{_came(text)} a fold and their number")
        return cls(int(written[1]), int(written[2]))


def _came(text: str) -> str:
    return f"--fold {text} was given, expected K/N such as 0/5:"
