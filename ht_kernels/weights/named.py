"""Whether a name of a tower brings trained weights, told without torch, so that a command line can check it first."""

from __future__ import annotations


def names_weights(name: str | None, pretrained: str | None) -> bool:
    """Whether the weights of a tower are named: by ``pretrained``, or by a backbone that comes with them.

    A name such as ``ViT-B-16`` alone gives random weights. ``name`` is None for a backbone that was passed as a module.
    """
    return bool(pretrained) or ":" in (name or "")
