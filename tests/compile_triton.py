"""Compile the Triton kernels for GPUs that need not be here.

Prints a line for each: architecture, kernel, tile, bytes of shared memory, registers per thread, bytes of stack
per thread, which is where registers are spilled to.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import Autotuner

from ht_kernels.backends.triton.depthwise_backward import depthwise_backward
from ht_kernels.backends.triton.depthwise_input_backward import depthwise_input_backward
from ht_kernels.backends.triton.down_project import SUM_ROWS, down_project
from ht_kernels.backends.triton.down_project_backward import down_project_backward
from ht_kernels.backends.triton.filter import tile_of
from ht_kernels.backends.triton.mix_and_up_project import mix_and_up_project
from ht_kernels.backends.triton.mix_and_up_project_backward import mix_and_up_project_backward
from ht_kernels.backends.triton.noise_backward import noise_backward
from ht_kernels.backends.triton.spectral_filter import spectral_filter
from ht_kernels.backends.triton.spectral_mask_backward import spectral_mask_backward

SIZES = {"DIM": 768, "CHANNELS": 64, "PRECISION": "ieee"}
TILED = {"SCALES": 3, "ALL_CHANNELS": 64}
HIDDEN = {"HIDDEN": 16, "ALL_HIDDEN": 16}
PLAIN = {"DROPOUT": False, "seed": None, "SPECTRAL": False}
ALL = {"DROPOUT": True, "SPECTRAL": True}
SMALL, LARGE = ({**tile_of(torch.float32, grid), "patch_stride": 1} for grid in ((14, 14), (24, 24)))
MIX = {"x", "out", "h", "filtered", "mix_weight", "up_weight"}
MIX_BACKWARD = {"grad_out", "h", "filtered", "mix_weight", "up_weight", "activation", "convolved", "grad_m", "grad_y"}
DOWN = {"x", "weight", "h"}
DOWN_BACKWARD = {"x", "grad_out", "grad_x", "grad_y", "down_weight", "grad_h"}
KERNELS: list[tuple[Any, set[str], dict[str, Any]]] = [  # with the arguments that point to the type of x
    (down_project, DOWN, {**SIZES, "POOL": True, "STATS": False, "SUM_ROWS": SUM_ROWS, "stats": None}),
    (down_project, DOWN, {**SIZES, "POOL": True, "STATS": True, "SUM_ROWS": SUM_ROWS}),
    (mix_and_up_project, MIX, {**SIZES, **TILED, **HIDDEN, **PLAIN}),
    (mix_and_up_project, MIX, {**SIZES, **TILED, **HIDDEN, **ALL}),
    (mix_and_up_project_backward, MIX_BACKWARD, {**SIZES, **TILED, **HIDDEN, **ALL}),
    (depthwise_backward, {"grad_y", "h"}, {"CHANNELS": 64}),
    (depthwise_input_backward, {"grad_y", "grad"}, {"CHANNELS": 64, **TILED}),
    (noise_backward, set(), {"CHANNELS": 64, "ALL_CHANNELS": 64, **HIDDEN}),
    (down_project_backward, DOWN_BACKWARD, {**SIZES, **TILED, "NEEDS_X": True, "SPECTRAL": False, "through": None}),
    *((spectral_filter, set(), {**tile, "CONJUGATED": False}) for tile in (SMALL, LARGE)),
    *((spectral_mask_backward, set(), {**tile, "IMAGES": 4}) for tile in (SMALL, LARGE)),
]
NUMBERS = dict.fromkeys(("tokens", "prefix", "batch", "channels", "height", "width", "parts", "patches", "work"), "i32")
NUMBERS |= {"eps": "fp32", "dropout": "fp32", "seed": "*i64"}


def registers(cubin: bytes) -> tuple[int, int]:
    """Registers per thread, and the bytes per thread that did not fit into them: the stack."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True)
    usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", report.stdout)
    assert usage, report
    return int(usage[1]), int(usage[2]) + int(usage[3])


def main() -> None:
    for arch in map(int, sys.argv[1:]):
        for tuned, elements, constants in KERNELS:
            is_tuned = isinstance(tuned, Autotuner)
            kernel = tuned.fn if is_tuned else tuned
            how = {key: constants[key] for key in ("num_warps", "num_stages") if key in constants}
            for config in tuned.configs if is_tuned else [triton.Config({}, **how)]:
                fixed = {key: value for key, value in {**constants, **config.kwargs}.items() if key not in how}
                signature = {
                    name: "constexpr"
                    if name in fixed
                    else "*bf16"
                    if name in elements
                    else "i32"
                    if name.endswith("stride")
                    else NUMBERS.get(name, "*fp32")
                    for name in kernel.arg_names
                }
                aligned = {
                    (i,): [["tt.divisibility", 16]]
                    for i, name in enumerate(kernel.arg_names)
                    if signature[name].startswith("*") or (name.endswith("stride") and name not in fixed)
                }
                source = ASTSource(kernel, signature, fixed, aligned)
                options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
                made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
                tile = ",".join(f"{key}={value}" for key, value in config.kwargs.items()) or "-"
                print(arch, kernel.__name__, tile, made.metadata.shared, *registers(made.asm["cubin"]))


if __name__ == "__main__":
    main()
