"""The words and numbers that arguments are chosen from, without torch, so that a command line can check them first."""

from __future__ import annotations

TASKS = ("segmentation", "classification", "contrastive")
"""What a model is for."""

VARIANTS = ("baseline", "noise_aware", "freq_enhanced", "hybrid")
"""The names in :data:`ht_kernels.published.VARIANTS`."""

FORMS = ("full", "shared", "radial")
"""The forms of a spectral filter."""

STARTS = ("published", "identity")
"""How the parameters of a new adapter start; :class:`ht_kernels.HTAdapter` describes them."""

NORMALIZATIONS = ("clip", "published")
"""What a model does to pixels in [0, 1]: ``clip`` subtracts the CLIP model's mean and divides by its standard
deviation, and ``published`` passes them on as they are, as the published code does for every task."""

RESULTS_OF = {"segmentation": ("logits", "mask", "grid"), "classification": ("logits",), "contrastive": ("embeddings",)}
"""The results of exported files by task, the usual one first."""

LARGEST_SIDE = 8192
"""The largest side in pixels of the images that a model takes."""

LESIONS = ("hypoechoic", "hyperechoic", "cystic", "shadowing")
"""The kinds of lesions in simulated phantoms."""

PHANTOM_SIDES = 8, 4096
"""The least and the largest height and width in pixels of a simulated phantom."""
