"""Files of adapters for the C library, as Python writes them; tests/cpp/test_adapter_file.cpp reads hostile ones."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ht_kernels as ht
from helpers.exports import folded_model
from helpers.small_models import small_model
from ht_kernels.errors import InputError
from ht_kernels.folding import FoldedAdapter, fold_adapter


def read(path: Path) -> list[tuple[tuple[Any, ...], dict[str, np.ndarray]]]:
    """The numbers and the weights of each adapter, as the guide describes the file."""
    content = path.read_bytes()
    magic, version, weights, adapters, size = struct.unpack_from("<8sIIQQ", content)
    assert (magic, version, weights, size) == (b"HTADAPT\0", 1, 15, len(content))
    assert struct.unpack("<I", content[-4:])[0] == zlib.crc32(content[:-4])
    at, found = 32 + 200 * adapters, []
    for i in range(adapters):
        *numbers, eps, zero = struct.unpack_from("<9qfI", content, 32 + 200 * i)
        assert zero == 0
        values = {}
        for name, count in zip(FoldedAdapter._fields, struct.unpack_from("<15Q", content, 112 + 200 * i), strict=True):
            if count:
                at += -at % 64
                values[name] = np.frombuffer(content, "<f4", count, at)
                at += 4 * count
        found.append(((*numbers, eps), values))
    assert at == len(content) - 4
    return found


def test_a_model(tmp_path: Path) -> None:
    folded = folded_model()
    ht.deploy.save_adapters(folded, tmp_path / "adapters")
    found = read(tmp_path / "adapters")
    assert [numbers[0] for numbers, _ in found] == sorted(map(int, folded.adapters))
    for numbers, values in found:
        adapter: Any = folded.adapters[str(numbers[0])]
        weights = adapter.values()
        assert numbers[1:3] == weights.up_weight.shape
        assert numbers[5:8] == (*folded.grid, folded.prefix_tokens) and numbers[9] == pytest.approx(adapter.eps)
        assert values.keys() == {name for name, weight in weights._asdict().items() if weight is not None}
        for name, value in values.items():
            np.testing.assert_array_equal(value, getattr(weights, name).numpy().ravel())


def test_an_adapter_with_a_radial_filter_is_written_on_its_grid(tmp_path: Path) -> None:
    adapter = ht.HTAdapter(16, 8, "hybrid", "radial")
    ht.deploy.save_adapters(adapter, tmp_path / "adapter", grid=(5, 4), prefix_tokens=2)
    ((numbers, values),) = read(tmp_path / "adapter")
    assert numbers[:9] == (0, 16, 8, 2, 3, 5, 4, 2, 8)
    assert values["mask"].size == 8 * 5 * 3 * 2
    np.testing.assert_array_equal(values["mix_weight"], fold_adapter(adapter).mix_weight.detach().numpy().ravel())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "grid must be"),
        ({"grid": (0, 4)}, "grid must be"),
        ({"grid": (4, 4), "prefix_tokens": -1}, "prefix_tokens must be from 0"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        ht.deploy.save_adapters(ht.HTAdapter(16, 8), tmp_path / "adapter", **options)
    assert not (tmp_path / "adapter").exists()


def test_wrong_models(tmp_path: Path) -> None:
    path = tmp_path / "adapters"
    with pytest.raises(InputError, match=r"down_weight of block 0 is in torch\.float64, and the file holds float32"):
        ht.deploy.save_adapters(ht.HTAdapter(16, 8).double(), path, grid=(4, 4))
    with pytest.raises(InputError, match=r"is in torch\.bfloat16, and the file holds float32"):
        ht.deploy.save_adapters(ht.fold(small_model(), torch.bfloat16), path)
    with pytest.raises(InputError, match="has 5x3 frequencies, and a grid of 4x4 has 4x3"):
        ht.deploy.save_adapters(ht.HTAdapter(16, 8, "hybrid", "full", grid=(5, 4)), path, grid=(4, 4))
    with pytest.raises(InputError, match="leave them out"):
        ht.deploy.save_adapters(folded_model(), path, grid=(4, 4))
    with pytest.raises(TypeError, match=r"must be a folded model or an adapter, got HTCLIP: ht_kernels\.fold makes"):
        ht.deploy.save_adapters(small_model(), path)
    diverged = ht.HTAdapter(16, 8)
    torch.nn.init.constant_(diverged.project1.bias, float("nan"))
    with pytest.raises(InputError, match="down_bias of block 0 has values that are not finite"):
        ht.deploy.save_adapters(diverged, path, grid=(4, 4))
    broken = ht.HTAdapter(16, 8)
    broken.project1 = torch.nn.Identity()
    with pytest.raises(ValueError, match="expected an adapter with the published parts"):
        ht.deploy.save_adapters(broken, path, grid=(4, 4))
    assert not path.exists()


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the adapters .* cannot be written"):
        ht.deploy.save_adapters(ht.HTAdapter(16, 8), tmp_path / "no" / "adapter", grid=(4, 4))
    (tmp_path / "adapter").write_bytes(b"old")
    with pytest.raises(InputError):
        ht.deploy.save_adapters(ht.HTAdapter(16, 8).double(), tmp_path / "adapter", grid=(4, 4))
    assert (tmp_path / "adapter").read_bytes() == b"old"
