"""ht-kernels info and the facts behind it."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import sys
from types import SimpleNamespace

import pytest
import torch

import ht_kernels
from ht_kernels import environment, seen_by_torch
from ht_kernels.backends.call import Case
from ht_kernels.cli import info
from ht_kernels.ops.dispatch import BACKENDS


def run(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    info.add_arguments(parser)
    assert info.run(parser.parse_args(arguments)) == 0


def test_json_and_text_tell_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    run("--json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["ht_kernels"] == ht_kernels.__version__
    assert facts["packages"]["torch"] == importlib.metadata.version("torch")
    assert facts["cpu"]["threads"] == torch.get_num_threads()
    assert list(facts["backends"]) == list(BACKENDS)
    run()
    text = capsys.readouterr().out
    for expected in (facts["ht_kernels"], facts["python"], facts["cpu"]["model"], *facts["backends"]):
        assert expected in text


def test_a_backend_that_cannot_run_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def can_run(case: Case) -> str | None:
        return "the moon is not full"

    monkeypatch.setitem(BACKENDS, "lunar", SimpleNamespace(can_run=can_run))
    assert seen_by_torch.backends()["lunar"] == "the moon is not full"
    assert seen_by_torch.backends()["reference"] is None
    run()
    assert "the moon is not full" in capsys.readouterr().out


def test_a_backend_that_does_not_exist_is_not_called_available(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HT_KERNELS_BACKEND", "lunar")
    run()
    assert "there is no backend 'lunar'" in capsys.readouterr().out


def test_missing_extras_name_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    required = ["torch>=2.11", "av; extra == 'video'", 'pydicom>=3; extra == "video"', "pytest; extra == 'bench'"]
    required.append("ht-kernels[video]; extra == 'all'")
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: required)
    monkeypatch.setattr(environment, "version", lambda name: None if name in ("av", "pydicom") else "1.0")
    assert environment.missing_extras() == {"video": ["av", "pydicom"]}
    run()
    assert "pip install av pydicom" in capsys.readouterr().out


def test_an_uninstalled_package_is_said_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert environment.missing_extras() is None
    run()
    assert "not installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        ("libgomp.so.1: cannot open shared object file", "apt install libgomp1"),
        ("No module named 'ht_kernels._C'", "pip install -e ."),
    ],
)
def test_a_core_that_does_not_load_is_said_so(
    error: str, mend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def import_module(name: str) -> object:
        raise ImportError(error)

    monkeypatch.setattr(environment.importlib, "import_module", import_module)
    assert environment.compiled_core() == {"error": error}
    run()
    output = capsys.readouterr().out.partition("Optional extras")[0]
    assert error in output and mend in output


@pytest.mark.parametrize(
    ("archs", "kernels", "gpu"),
    [
        (["75-virtual", "80"], "machine code for 80, PTX of 75 80, by nvcc 13.0.88", "CUDA kernels built"),
        (["80-real", "89-real"], "machine code for 80 89, by nvcc 13.0.88", "CUDA kernels built"),
        (["90-real"], "machine code for 90, by nvcc 13.0.88", "HT_KERNELS_CUDA_ARCHS=89 pip install ."),
        ([], "not built", "this build has no CUDA kernels"),
    ],
)
def test_what_was_built_and_whether_it_is_for_this_gpu(
    monkeypatch: pytest.MonkeyPatch, archs: list[str], kernels: str, gpu: str
) -> None:
    built = {"version": "1", "compiler": "gcc", "openmp": 1, "isa_levels": ["baseline"], "cuda_archs": archs}
    module = SimpleNamespace(build_info=lambda: {**built, "nvcc": "13.0.88"}, cpu_isa=lambda: "baseline")
    monkeypatch.setitem(sys.modules, "ht_kernels._C", module)
    monkeypatch.setattr(seen_by_torch.core, "module", module)
    monkeypatch.setattr(seen_by_torch.core, "missing", "")
    monkeypatch.setattr(seen_by_torch, "backends", lambda: {"reference": None})
    properties = SimpleNamespace(name="NVIDIA L4", major=8, minor=9, total_memory=2**34)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    facts = info._facts()
    assert facts["compiled_core"]["cuda_archs"] == archs and facts["compiled_core"]["nvcc"] == "13.0.88"
    assert (facts["gpus"][0]["without_cuda_kernels"] is None) == (gpu == "CUDA kernels built")
    text = "\n".join(info._lines(facts))
    assert re.search(f"CUDA kernels +{re.escape(kernels)}\n", text)
    assert re.search(f"GPU +NVIDIA L4, 16.0 GiB, compute capability 8.9, .*{re.escape(gpu)}", text)


def test_settings_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HT_KERNELS_BACKEND", "reference")
    run()
    assert "HT_KERNELS_BACKEND=reference" in capsys.readouterr().out


def test_a_package_for_one_version_of_cuda_is_that_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT comes as ``tensorrt_rtx``, which names one for a CUDA version, or as that one alone."""

    def version(name: str) -> str:
        if name in ("tensorrt_rtx_cu13", "numpy_cu13"):
            return "1.2"
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert environment.version("tensorrt_rtx") == "1.2"
    assert environment.version("tensorrt") is environment.version("numpy") is None
