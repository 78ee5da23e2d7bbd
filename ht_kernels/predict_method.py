"""``model.predict(...)``, which models, folded models and sessions have in common."""

from __future__ import annotations

from typing import Any


class Predicts:
    """A model with a method that predicts: an ``HTCLIP``, a folded model or a session. Only a session needs no torch.

    Models lie below predictions, so the method imports them when it is called.
    """

    def predict(self, inputs: Any, **options: Any) -> Any:
        """The prediction of one image, or a list of them for a list or tuple of images.

        This is ``ht_kernels.Predictor(self, **options)(inputs)``, which describes inputs, options and errors. Each call
        folds an ``HTCLIP`` anew, because its weights may have changed; for many calls keep a ``Predictor``.
        """
        from .prediction import Predictor

        model: Any = self
        return Predictor(model, **options)(inputs)
