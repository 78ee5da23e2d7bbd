"""Products of bfloat16 in pairs, as a processor with AVX512-BF16 computes them, carried out with AVX2 on any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ht_kernels.backends import core

pytestmark = pytest.mark.skipif(bool(core.missing), reason="there is no compiled core")


def run(code: list[str], isa: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a process that uses an instruction set, elsewhere than in the checkout; see test_adapter.py."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HT_KERNELS_CPU": isa}
    arguments = [sys.executable, *code]
    return subprocess.run(arguments, capture_output=True, text=True, env=environment, cwd=folder, check=True)


@pytest.fixture(scope="module", params=["avx2_bf16", "avx512_bf16"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The errors of every case, as helpers/bfloat16_products.py prints them."""
    if request.param not in core.module.build_info()["isa_levels"]:
        pytest.skip(f"{request.param} was not compiled in")
    done = run(["-m", "helpers.bfloat16_products"], request.param, tmp_path_factory.mktemp("products"))
    result: dict[str, Any] = json.loads(done.stdout)
    if result["isa"] != request.param:
        assert f"HT_KERNELS_CPU is '{request.param}', which this machine cannot run" in done.stderr
        pytest.skip(f"this machine has no {request.param}")
    return result


def test_errors_beside_the_published_module(found: dict[str, Any]) -> None:
    """For every variant, even and odd sizes, large channels and means.

    Of ``out - x``, no larger than the published module's, which rounds the same factors and every intermediate result
    too. Of the gradient of x, whose backward is in float32 from a forward that was rounded, 1.5 times at most.
    """
    assert len(found["errors"]) == 48
    for case, errors in found["errors"].items():
        for name, most in (("out", 1.0), ("inference", 1.0), ("x", 1.5)):
            ours, published = errors[name]
            assert ours <= most * published, f"{case}: {name}"


def test_gradients_of_weights_beside_the_published_module(found: dict[str, Any]) -> None:
    """Of ordinary tokens. Large channels and means saturate the noise estimator, whose errors are then any."""
    for case, errors in found["errors"].items():
        for name, (ours, published) in errors.items():
            assert "/ordinary/" not in case or ours <= 1.5 * published, f"{case}: {name}"


def test_autocast_rounds_the_factors_of_float32_tokens(found: dict[str, Any]) -> None:
    """In training and in inference: products in float32 would have errors of 1e-6."""
    for case, errors in found["errors"].items():
        if case.endswith("/autocast"):
            assert errors["out"][0] > 1e-4 and errors["inference"][0] > 1e-4, case


SWITCH = """
import torch
import ht_kernels as ht
from helpers.adapters import random_adapter
adapter = ht.HTAdapter(40, 8).eval()
adapter.load_state_dict(random_adapter("hybrid", 40, 8).state_dict())
x = torch.randn(2, 13, 40)
with torch.no_grad():
    wide = adapter(x, (3, 4))
    with torch.autocast("cpu", torch.bfloat16):
        narrow = adapter(x, (3, 4))
        again = adapter(x, (3, 4))
    print(torch.equal(narrow, again), torch.equal(wide, narrow), torch.equal(wide, adapter(x, (3, 4))))
"""


def test_calls_with_and_without_autocast_have_their_own_weights(tmp_path: Path) -> None:
    if "avx2_bf16" not in core.module.build_info()["isa_levels"]:
        pytest.skip("avx2_bf16 was not compiled in")
    done = run(["-c", SWITCH], "avx2_bf16", tmp_path)
    if "which this machine cannot run" in done.stderr:
        pytest.skip("this machine has no avx2_bf16")
    assert done.stdout.split() == ["True", "False", "True"]


def test_what_serves_tests_has_to_be_asked_for(tmp_path: Path) -> None:
    """AVX2 that carries out dot products of bfloat16 is slower than AVX2 in float32."""
    print_isa = ["-c", "from ht_kernels import _C; print(_C.cpu_isa())"]
    assert run(print_isa, "", tmp_path).stdout.strip() != "avx2_bf16"
