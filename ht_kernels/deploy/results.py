"""What an exported file gives for a frame, which depends on the task."""

from __future__ import annotations

from ht_kernels.choices import RESULTS_OF
from ht_kernels.errors import InputError


def check_result(output: str, task: str) -> None:
    """Refuse a result that models for a task do not give.

    Raises:
        InputError: it is one.
    """
    if output in RESULTS_OF[task]:
        return
    own = RESULTS_OF[task][0]
    if output in ("grid", "mask"):
        raise InputError(f"a {output} goes with segmentation, and the model is for {task}: export its {own}")
    raise InputError(f"this model, for {task}, gives {own}, and {output} were asked for")
