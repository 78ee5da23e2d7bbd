"""Prediction on files and arrays: masks and labels of images and of the frames of clips, one input at a time.

``predictor`` runs a model on what is given, ``result`` is what comes out, and ``writing`` writes the results of many
files into a folder. What a stream shows of a frame of a file is what a prediction of it has: both ask
:class:`ht_kernels.video.model.FrameModel`.
"""

from .predictor import Predictor
from .result import Prediction

__all__ = ["Prediction", "Predictor"]
