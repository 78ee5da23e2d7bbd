"""Fixtures for several test files, and what must be set before the first is imported."""

import gc
import os
import sys
from pathlib import Path

import pytest
import torch

pytest.register_assert_rewrite("helpers")
# For `benchmarks`. At the end, for the checkout's own ht_kernels would hide the installed one.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from helpers import fuzz  # noqa: E402

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # for tests/kernels/test_triton*.py; read when the kernels are imported
os.environ["ACCELERATE_USE_CPU"] = "true"  # models here are small, and compared with others on the CPU

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:  # they share the processors, and so do the programs that they start
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--frames", type=int, default=1500, help="that tests/video/test_soak.py runs")
    parser.addoption("--fuzz", action="store_true", help=f"try {fuzz.MANY} inputs in each fuzz test")


def pytest_configure(config: pytest.Config) -> None:
    # pytest-xdist would hand out files with few tests last, and those are the long ones.
    config.option.loadscopereorder = False
    fuzz.many = config.getoption("--fuzz")


def pytest_collection_finish() -> None:
    """Imported modules stay, so garbage collection leaves them out, and runs less often.

    What is garbage by then is collected first, because it would stay too.

    Otherwise it takes 6 of 80 seconds of the tests of models.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 100)


@pytest.fixture
def one_thread():
    """Small tensors gain nothing from threads, and on a busy machine lose much to waiting for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def allow_tf32():
    """Tensor cores may round float32 products to TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A DICOM clip of five frames, ``clip.dcm`` in the folder of the test."""
    import numpy as np

    from helpers.clips import frames, write_dicom

    return write_dicom(tmp_path / "clip.dcm", np.stack(frames()), FrameTime="40")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small segmentation model with named classes, without its tower, whose weights are then drawn."""
    import ht_kernels as ht

    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    ht.HTCLIP("timm/vit_tiny_patch16_224", class_names=("background", "lesion")).save(path)
    return path


@pytest.fixture(scope="session")
def whole_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small segmentation model with its tower, whose masks of pictures are mixed."""
    import ht_kernels as ht

    path = tmp_path_factory.mktemp("whole checkpoint") / "model.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        ht.HTCLIP("timm/vit_tiny_patch16_224").requires_grad_(True).save(path)
    return path
