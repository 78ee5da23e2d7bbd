"""The source of the CUDA kernels, compiled for the CPU, for a dry run: threads run one after the other (tests/cpp)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def folder(output: Path) -> Path:
    """The folder in which the module is built."""
    return output / "emulated"


def build(output: Path) -> None:
    """Build the module with CMake.

    Raises:
        RuntimeError: CMake, pybind11 or the compiler is missing or fails.
    """
    build = folder(output)
    cmake = [sys.executable, "-m", "cmake"]
    configure = ["-S", str(ROOT / "tests/cpp/cuda_on_cpu"), "-B", str(build), f"-DPython_EXECUTABLE={sys.executable}"]
    for command in ([*cmake, *configure], [*cmake, "--build", str(build), "--parallel"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the emulated kernels could not be built: ...{(done.stdout + done.stderr)[-900:]}")


def load(path: Path) -> ModuleType:
    """Import the compiled core at ``path``."""
    spec = importlib.util.spec_from_file_location("_C", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def path(output: Path) -> Path | None:
    """The path of the module's file, or None if it is not built."""
    return next(folder(output).glob("_C*.so"), None)


def use(output: Path) -> None:
    """Make the backend ``cuda`` run CPU tensors with the emulated kernels, for the rest of this process.

    If the kernels are not built, because the build failed, nothing changes.
    """
    file = path(output)
    if file is None:
        return
    from contextlib import nullcontext

    import torch

    from ht_kernels.backends import core, cuda, torch_private
    from ht_kernels.backends.call import Case, FilterCase, MaskCase

    def reason(case: Case | FilterCase) -> str | None:
        """The reason as the backend itself gives it, except that the device is not checked."""
        if case.needs_grad:
            return "it is for inference: it has no gradients and no dropout"
        return None if case.dtype in cuda.DTYPES else f"it does not compute {case.dtype}"

    def reason_of_mask(case: MaskCase) -> str | None:
        return None if case.dtype == torch.float32 else f"it makes no masks of {case.dtype}"

    core.module, core.missing = load(file), ""  # type: ignore[assignment]
    cuda.can_run = cuda.can_filter = reason  # type: ignore[assignment]
    cuda.can_mask = reason_of_mask
    torch_private.current_stream = lambda index: 0
    torch.cuda.current_device = lambda: None  # type: ignore[assignment,return-value]
    torch.cuda.device = lambda device: nullcontext()  # type: ignore[assignment,misc]
