"""Triton's interpreter made quicker, for a dry run and for tests.

This replaces private functions of the interpreter. It was tried with Triton 3.8.0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

_is_quick = False


def speed_up() -> None:
    """Make the interpreter do less, in this process and for good. Its results stay the same.

    A call takes about half of the time, because the interpreter

    - checks no integers for overflow, which it reports in debugging only;
    - prepares the language once per launch, and not again in each function that a kernel calls;
    - looks the NumPy dtype of a Triton dtype up once.
    """
    global _is_quick
    if _is_quick:
        return
    _is_quick = True
    builder: Any = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    interpreter._patch_lang = _only_if_not_prepared(interpreter._patch_lang)
    interpreter._get_np_dtype = _by_name_of_elements(interpreter._get_np_dtype)


def _only_if_not_prepared(prepare: Callable[..., Any]) -> Callable[..., Any]:
    def call(function: Callable[..., Any]) -> Any:
        # In a prepared module of the language, other functions are in the place of the built-in ones.
        modules = [value for value in function.__globals__.values() if value is tl or value is tl.core]
        if any(tl.core.is_builtin(module.load) for module in modules):
            return prepare(function)
        return interpreter._LangPatchScope()

    return call


def _by_name_of_elements(find: Callable[..., Any]) -> Callable[..., Any]:
    found: dict[str, Any] = {}

    def call(of: Any) -> Any:
        element = of.scalar
        if element.name not in found:
            found[element.name] = find(element)
        return found[element.name]

    return call
