"""What runs a checkpoint in the least time on this machine, for streams."""

from __future__ import annotations

import copy

import torch

from ht_kernels.clip.htclip import HTCLIP
from ht_kernels.ops import dispatch

from .folded import FoldedHTCLIP, fold
from .session import Session


def default_runtime(precision: str = "fp32") -> str | None:
    """The runtime for a checkpoint in a precision where the user names none; None if a session is to choose.

    That is ``cuda_graph`` where there is a GPU. On a CPU it is ``openvino`` in 16 bits, which no other runtime has.
    """
    if torch.cuda.is_available():
        return "cuda_graph"
    return None if precision == "fp32" else "openvino"


def fastest(model: HTCLIP) -> FoldedHTCLIP | Session:
    """What runs a model for a stream in the least time here, in float32.

    That is a folded copy where there is a GPU, else a session of the first runtime that is installed. It is the folded
    model itself where that is torch, or where the user named a backend: other runtimes have none.

    Raises:
        InputError: the model cannot be folded.
    """
    if default_runtime() == "cuda_graph":
        return fold(copy.deepcopy(model).cuda())
    folded = fold(model)
    if dispatch.choices.asked:
        return folded
    session = Session.open(folded, output="grid" if model.config.task == "segmentation" else None)
    return folded if session.runtime == "cpu" else session
