"""The benchmark of the recipe's choices: what it changes in test images, and its table."""

from __future__ import annotations

import torch

from benchmarks.changes import AS_IT_IS, CHANGES, changed, shrink
from benchmarks.recipe_choices import CHOICES, table
from ht_kernels.train import Examples, named_recipe


def test_each_choice_differs_from_the_recipe_and_only_the_first_is_it() -> None:
    recipe = named_recipe("ours", "segmentation")
    made = [choice(recipe) for choice in CHOICES.values()]
    assert made[0] == recipe
    assert len(set(made)) == len(made)


def test_changes_of_test_images() -> None:
    images = torch.full((2, 1, 32, 32), 100, dtype=torch.uint8)
    masks = torch.ones(2, 32, 32, dtype=torch.uint8)
    test = Examples(images, masks, ("a", "b"), {})
    found = {change: changed(test, change) for change in CHANGES}
    assert found[AS_IT_IS].images.equal(images)
    assert found["darker"].images.eq(40).all()
    assert found["brighter"].images.eq(200).all()
    assert found["grainier"].images.float().mean().sub(100).abs() < 5
    assert found["grainier"].images.float().std() > 20
    assert found["JPEG"].images.float().sub(100).abs().max() < 10
    assert found["grainier"].images.equal(changed(test, "grainier").images)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[6:25, 6:25] = True
    assert found["smaller"].images.eq(100)[:, 0].equal(inside.expand(2, 32, 32))
    assert found["smaller"].targets.bool().equal(inside.expand(2, 32, 32))
    assert all(other.targets is masks for change, other in found.items() if change != "smaller")


def test_table_says_how_far_a_choice_is_from_the_recipe() -> None:
    def row(choice: str, dice: float) -> dict[str, object]:
        each = dict.fromkeys(CHANGES, dice)
        images = {change: [dice, dice, None, None if change == "smaller" else dice] for change in CHANGES}
        return {"choice": choice, "passes": 14, "validation": 0.75, "dice": each, "images": images}

    lines = table([row("the recipe", 0.75), row("no augmentation", 0.5)])
    assert lines[2].endswith("| 0.750 | - | - |")
    assert lines[3].startswith("| no augmentation | 14 | 0.750 | 0.500 |")
    assert lines[3].endswith("| -0.250 | -0.250 to -0.250 |")


def test_a_shrunk_mask_lies_where_the_shrunk_image_shows_it() -> None:
    rows, columns = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    disc = ((rows - 90) ** 2 + (columns - 130) ** 2 < 30**2).float()[None, None]
    image, mask = (shrink(disc, mode)[0, 0] > 0.5 for mode in ("bilinear", "nearest-exact"))
    assert 2 * (image & mask).sum() / (image.sum() + mask.sum()) > 0.985
