"""Which mask belongs to which image, by their names.

A mask has the name of its image, but for a beginning and an ending that masks have in common, such as ``_mask`` or
``seg-``. Images may have such, too: ``img_001`` and ``mask_001``. Both are found in the names: those that make the most
pairs. Folders between must be the same, or else names must be unique without them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .found import Found

Affix = tuple[str, str]
"""What stands before and behind the part of a name that an image and its mask have in common."""

_NONE: Affix = ("", "")
_Core = tuple[tuple[str, ...], str]
"""The folders of a picture, or () where they do not count, and its name without the affix."""


@dataclass(frozen=True)
class Pairs:
    """Pictures in pairs.

    Attributes:
        pairs: images with their masks.
        images: those without a mask.
        masks: those without an image.
        affix: of the names of masks.
    """

    pairs: list[tuple[Found, Found]] = field(default_factory=list)
    images: list[Found] = field(default_factory=list)
    masks: list[Found] = field(default_factory=list)
    affix: Affix = _NONE


def pair(images: Sequence[Found], masks: Sequence[Found]) -> Pairs:
    """Pairs of images from one folder and masks from another; of equally many, those with the same folders."""
    best = Pairs(images=list(images), masks=list(masks))
    for within in (True, False):
        for of_images in dict.fromkeys((_NONE, _common([image.stem for image in images]))):
            cores = _by_core(images, of_images, within)
            affix = _most_frequent(_affixes(masks, cores, within))
            found = _paired(images, masks, cores, _by_core(masks, affix, within), affix)
            if len(found.pairs) > len(best.pairs):
                best = found
    return best


def pair_within(pictures: Sequence[Found]) -> Pairs:
    """Pairs of images and masks that lie in one folder, where only their names tell them apart.

    A mask has the name of an image beside it and something more, in which there is a letter. Without masks for half of
    the other pictures there are no pairs, because names of images may be alike as well.
    """
    cores = _by_core(pictures, _NONE, True)
    longer = (affix for affix in _affixes(pictures, cores, True) if any(map(str.isalpha, "".join(affix))))
    affix = _most_frequent(longer)
    masks = [each for each in pictures if affix != _NONE and _has_image(each, affix, cores)]
    paths = {mask.path for mask in masks}
    images = [each for each in pictures if each.path not in paths]
    if 2 * len(masks) < len(images) or not masks:
        return Pairs(images=list(pictures))
    return _paired(images, masks, _by_core(images, _NONE, True), _by_core(masks, affix, True), affix)


def _has_image(picture: Found, affix: Affix, cores: Mapping[_Core, list[Found]]) -> bool:
    core = _core(picture, affix, True)
    return core is not None and core in cores


def _paired(
    images: Sequence[Found],
    masks: Sequence[Found],
    of_images: Mapping[_Core, list[Found]],
    of_masks: Mapping[_Core, list[Found]],
    affix: Affix,
) -> Pairs:
    """A core that two images or two masks have, such as a.png and a.jpg, makes no pair."""
    pairs = [
        (found[0], of_masks[core][0])
        for core, found in of_images.items()
        if len(found) == len(of_masks.get(core, ())) == 1
    ]
    used = {each.path for both in pairs for each in both}
    images_left, masks_left = ([each for each in found if each.path not in used] for found in (images, masks))
    return Pairs(pairs, images_left, masks_left, affix)


def _by_core(pictures: Iterable[Found], affix: Affix, within: bool) -> dict[_Core, list[Found]]:
    cores: dict[_Core, list[Found]] = {}
    for each in pictures:
        core = _core(each, affix, within)
        if core is not None:
            cores.setdefault(core, []).append(each)
    return cores


def _core(picture: Found, affix: Affix, within: bool) -> _Core | None:
    """None without this affix, and where nothing else is left to tell the picture by."""
    before, behind = affix
    stem = picture.stem
    if not (stem.startswith(before) and stem.endswith(behind) and len(stem) >= len(before) + len(behind)):
        return None
    core = stem[len(before) : len(stem) - len(behind)]
    folders = picture.folders if within else ()
    return (folders, core) if core or folders else None


def _affixes(masks: Iterable[Found], cores: Mapping[_Core, object], within: bool) -> Iterable[Affix]:
    """Every affix of every mask that leaves the core of an image."""
    lengths = sorted({len(core) for _, core in cores})
    for mask in masks:
        folders, stem = mask.folders if within else (), mask.stem
        for length in lengths:
            for start in range(len(stem) - length + 1):
                if (folders, stem[start : start + length]) in cores:
                    yield stem[:start], stem[start + length :]


def _most_frequent(affixes: Iterable[Affix]) -> Affix:
    """The most frequent, of equally many the shortest; none where there are none."""
    counts = Counter(affixes)
    return min(counts, key=lambda affix: (-counts[affix], len("".join(affix)), affix), default=_NONE)


def _common(stems: Sequence[str]) -> Affix:
    """The beginning and the ending that all names have, without digits next to what differs."""
    before = _beginning(stems)
    return before, _beginning([stem[len(before) :][::-1] for stem in stems])[::-1]


def _beginning(words: Sequence[str]) -> str:
    shortest = min(words, key=len, default="")
    same = (all(word[i] == shortest[i] for word in words) for i in range(len(shortest)))
    return shortest[: next((i for i, equal in enumerate(same) if not equal), len(shortest))].rstrip("0123456789")
