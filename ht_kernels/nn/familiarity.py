"""How far an image is from those that a model was trained on: a Mahalanobis distance of pooled features.

The features of an image are the patch tokens that the pyramid reads, averaged over the patches. Over the training
images they have a mean and a covariance. The distance of an image is Mahalanobis's, per dimension: about 1 for an image
like those that the mean and the covariance came from, and several times that for one of another kind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ht_kernels.distance_scale import DistanceScale
from ht_kernels.errors import InputError
from ht_kernels.words import counted

DIRECTIONS = 32
"""The largest number of directions whose variance is stored. Of a few hundred images, more would be mostly noise."""

FEWEST = 10
"""The smallest number of training images, and of validation images, that the distance can be calibrated with."""

FALSE_ALARMS = 0.01
"""The share of images of the same kind as the validation images that the limit is to call unfamiliar."""

_QUANTILES = 101
"""The largest number of quantiles stored: the 0th to the 100th percentile."""

Array = NDArray[np.float64]


class Familiarity(nn.Module):
    """The mean and covariance of a model's pooled features, and the distances of its validation images.

    Features are scaled to unit variance, because some channels of CLIP towers are 50 times larger than others and would
    decide alone. The covariance is that of Ledoit and Wolf, shrunk towards a multiple of the identity. Its K leading
    directions are stored with their variances, and the mean variance of all others.

    Buffers are float32: ``mean`` and ``spread``, the mean and standard deviation (F,) of each feature; ``directions``
    (K, F), orthonormal; ``variances`` (K,); ``remainder`` (); ``quantiles`` (Q,); ``limit`` (). F is the number of
    feature layers times the token width.

    Args:
        features: F.
        directions: K, at most F.
        quantiles: Q, at least 2.
    """

    mean: Tensor
    spread: Tensor
    directions: Tensor
    variances: Tensor
    remainder: Tensor
    quantiles: Tensor
    limit: Tensor

    def __init__(self, features: int, directions: int, quantiles: int) -> None:
        super().__init__()
        shapes = {
            "mean": (features,),
            "spread": (features,),
            "directions": (directions, features),
            "variances": (directions,),
            "remainder": (),
            "quantiles": (quantiles,),
            "limit": (),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.ones(shape))

    @classmethod
    def fit(cls, train: Tensor, val: Tensor) -> Familiarity:
        """Calibrate on the pooled features of training images (N, F) and of validation images (M, F).

        The limit comes from the validation images alone, because a trained model's training images are nearer.

        Raises:
            InputError: there are fewer than :data:`FEWEST` images of a kind, the features are not finite, or the
                training images are too few different ones, such as one or two that are repeated.
        """
        sets = {"training": train, "validation": val}
        for name, features in sets.items():
            if features.dim() != 2 or features.shape[1:] != train.shape[1:]:
                raise ValueError(f"{name} features must have shape (N, {train.shape[-1]}), got {tuple(features.shape)}")
            if len(features) < FEWEST:
                raise InputError(
                    f"the distance from the training images cannot be calibrated with "
                    f"{counted(len(features), f'{name} image')}: at least {FEWEST} are needed"
                )
            if not features.isfinite().all():
                raise InputError(f"the model's features of some {name} images are not finite numbers")
        known = train.detach().cpu().double().numpy()
        mean, spread = known.mean(0), known.std(0)
        if not spread.any():
            raise InputError(f"all {len(known)} training images have the same features, so there is no distance")
        # A feature that hardly varies would turn rounding errors into distance.
        spread = np.maximum(spread, 1e-3 * np.median(spread[spread > 0]))
        directions, variances, remainder = _shrunk((known - mean) / spread)
        count = min(_QUANTILES, len(val))
        fitted = cls(len(mean), len(variances), count)
        fitted._set(mean=mean, spread=spread, directions=directions, variances=variances, remainder=remainder)
        distances = fitted(val.detach().cpu().float()).double().numpy()
        fitted._set(quantiles=np.quantile(distances, np.linspace(0, 1, count)), limit=_limit(distances))
        if not fitted.scale.sound():
            raise InputError("the training images differ too little from each other to say how far another one is")
        return fitted

    def forward(self, features: Tensor) -> Tensor:
        """The distances (B,) of pooled features (B, F), in the dtype of the buffers.

        The distance is the root of Mahalanobis's squared distance over F.
        """
        scaled = (features.to(self.mean.dtype) - self.mean) / self.spread
        along = scaled @ self.directions.t()
        beside = scaled - along @ self.directions
        deviations = torch.cat([along / self.variances.sqrt(), beside / self.remainder.sqrt()], 1)
        distances: Tensor = torch.linalg.vector_norm(deviations, dim=1) / len(self.mean) ** 0.5
        return distances

    @property
    def scale(self) -> DistanceScale:
        """The limit and the quantiles, as numbers."""
        return DistanceScale(float(self.limit), tuple(self.quantiles.tolist()))

    def _set(self, **values: float | Array) -> None:
        for name, value in values.items():
            getattr(self, name).copy_(torch.as_tensor(value))


def pool(tokens: Tensor) -> Tensor:
    """The mean (B, D) of patch tokens (B, H*W, D) over the patches, in float32 or float64."""
    return tokens.mean(1, dtype=torch.promote_types(tokens.dtype, torch.float32))


def pooled(features: Sequence[Tensor]) -> Tensor:
    """The pooled features (B, F) of an image from the patch tokens (B, H*W, D) of each feature layer."""
    return torch.cat([pool(tokens) for tokens in features], 1)


def _shrunk(centred: Array) -> tuple[Array, Array, float]:
    """Leading directions (K, F), their variances (K,), and the mean variance of all others, of centred rows (N, F).

    The covariance is ``(1 - s) S + s m I``, where S is the sample covariance, m its mean variance, and s the shrinkage
    that minimises the expected squared error: O. Ledoit and M. Wolf, "A well-conditioned estimator for
    large-dimensional covariance matrices", Journal of Multivariate Analysis 88, 2004.
    """
    count, width = centred.shape
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    variances = singular**2 / count
    mean, square = variances.sum() / width, (variances**2).sum()
    apart = square - width * mean**2  # the squared distance of S from m I
    noise = ((centred**2).sum(1) ** 2).sum() / count**2 - square / count  # of S from the true covariance, expected
    shrinkage = min(1.0, noise / apart) if apart > 0 else 1.0
    kept = min(DIRECTIONS, len(variances), width - 1)
    shrunk = (1 - shrinkage) * variances[:kept] + shrinkage * mean
    remainder = (width * mean - shrunk.sum()) / (width - kept)
    return directions[:kept], shrunk, remainder


def _limit(distances: Array) -> float:
    """The distance that :data:`FALSE_ALARMS` of further images of the same kind exceed.

    The largest of a few distances is a poor limit: of 45, one more image exceeds it in 2 % of cases, and by chance much
    more often. Logarithms of distances are close to normally distributed, so the limit is the upper bound of Student's
    prediction interval for one more: mean + t * deviation * sqrt(1 + 1/M).
    """
    logs, count = np.log(distances), len(distances)
    reach = _student(1 - FALSE_ALARMS, count - 1) * math.sqrt(1 + 1 / count)
    return float(np.exp(logs.mean() + reach * logs.std(ddof=1)))


def _student(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution, by its expansion in 1 / ``freedom`` around the normal one.

    M. Abramowitz and I. A. Stegun, "Handbook of Mathematical Functions", 26.7.5. From 9 degrees of freedom on, the 99 %
    quantile is right to 0.1 %.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, 1))
