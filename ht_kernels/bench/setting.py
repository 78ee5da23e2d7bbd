"""The setting of a benchmark of one adapter: its sizes, dtype, backend and threads, checked before any work."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import Any

import torch

from ht_kernels.backends.call import Case
from ht_kernels.errors import InputError
from ht_kernels.ops.dispatch import BACKENDS, choose

from .sizes import read_sizes

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Setting:
    """What is timed.

    Attributes:
        shape: (B, N, D, C): images, tokens of an image, width of a token, width of the bottleneck.
        grid: (H, W) of the patches; the other N - H W tokens are prefix tokens.
        variant: the published variant of the adapter.
        spectral: the form of its spectral filter, or None.
        dtype: a name in :data:`DTYPES`.
        backend: the name of the backend.
        threads: the number of threads on the CPU.
    """

    shape: tuple[int, int, int, int]
    grid: tuple[int, int]
    variant: str
    spectral: str | None
    dtype: str
    backend: str
    threads: int

    @property
    def prefix_tokens(self) -> int:
        return self.shape[1] - self.grid[0] * self.grid[1]

    def case(self, device: torch.device, needs_grad: bool) -> Case:
        """The setting as a backend sees it that is asked whether it can run it."""
        _, _, dim, bottleneck = self.shape
        spectral = self.spectral is not None
        dtype = DTYPES[self.dtype]
        case = Case(device, dtype, dim, bottleneck, self.grid, self.prefix_tokens, needs_grad, spectral)
        return case._replace(named=True)

    def device(self) -> torch.device:
        """The device that the backend runs the forward pass on, a GPU if it can.

        Raises:
            InputError: it can run it on no device of this machine; the message says why.
        """
        reasons = []
        for device in _devices():
            reason = BACKENDS[self.backend].can_run(self.case(device, needs_grad=False))
            if reason is None:
                return device
            reasons.append(reason)
        raise InputError(f"--backend {self.backend} cannot run this adapter: {reasons[0]}")

    def why_no_backward(self) -> str | None:
        """The reason why the backend has no backward pass of this adapter, or None if it has."""
        reason: str | None = BACKENDS[self.backend].can_run(self.case(self.device(), needs_grad=True))
        return reason

    def describe(self) -> dict[str, Any]:
        """The adapter as plain values that JSON can hold, without what runs it."""
        names = "batch", "tokens", "dim", "bottleneck"
        return {
            **dict(zip(names, self.shape, strict=True)),
            "grid": list(self.grid),
            "prefix_tokens": self.prefix_tokens,
            "variant": self.variant,
            "spectral": self.spectral,
            "dtype": self.dtype,
        }

    def command(self, options: str) -> str:
        """The command that makes the same measurement, with further ``options``."""
        words = ["ht-kernels", "bench", "--shape", _joined(self.shape), "--grid", _joined(self.grid)]
        words += ["--variant", self.variant, *(["--spectral", self.spectral] if self.spectral else [])]
        words += ["--dtype", self.dtype, "--backend", self.backend, "--threads", str(self.threads)]
        return f"{shlex.join(words)} {options}".rstrip()


def read_setting(
    shape: str,
    grid: str | None,
    variant: str,
    spectral: str | None,
    dtype: str,
    backend: str | None,
    threads: int | None,
) -> Setting:
    """Read the options of the command line; without a backend or threads, those that a call would have.

    Raises:
        InputError: an option cannot be read, or does not fit the others.
    """
    sizes, patches = read_sizes(shape, grid, variant, spectral)
    setting = Setting(
        sizes,
        patches,
        variant,
        spectral,
        dtype,
        backend or "reference",
        threads or torch.get_num_threads(),
    )
    if backend is None:
        chosen = choose(setting.case(_devices()[0], needs_grad=False)._replace(named=False))
        setting = replace(setting, backend=chosen)
    setting.device()
    return setting


def _devices() -> list[torch.device]:
    return [torch.device("cuda")] * torch.cuda.is_available() + [torch.device("cpu")]


def _joined(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))
