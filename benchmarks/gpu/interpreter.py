"""Triton's interpreter, for a dry run and for tests."""

from __future__ import annotations

import dataclasses


def leave_out_overflow_checks() -> None:
    """In this process, for good: they take a quarter of its time, and it asks for their answers in debugging only."""
    from triton.runtime.interpreter import interpreter_builder

    interpreter_builder.options = dataclasses.replace(interpreter_builder.options, sanitize_overflow=False)
