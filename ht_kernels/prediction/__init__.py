"""Prediction on files and arrays: masks and labels of images and of the frames of clips, one input at a time.

``predictor`` runs a model on what is given, ``result`` is what comes out, and ``writing`` writes the results of many
files into a folder. What a stream shows of a frame of a file is what a prediction of it has: both ask
:class:`ht_kernels.video.model.FrameModel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ht_kernels.lazy import lazily

if TYPE_CHECKING:
    from .predictor import Predictor, predict
    from .result import Prediction

__all__ = ["Prediction", "Predictor", "predict"]

__getattr__, __dir__ = lazily(__name__, {"Prediction": ".result", "Predictor": ".predictor", "predict": ".predictor"})
