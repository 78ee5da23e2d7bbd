"""How often each loop of the CUDA kernels runs, and how many bytes they move.

For each kernel there is a function that takes the call, the library's plan and the launch, and returns :class:`Trips`.
To add a kernel, write such a function and put it into ``KERNELS`` by the kernel's name. To add a loop, add a ``Loop``
with text of the line of its ``for``; the machine code's other loops are found by themselves, and one that is not
declared is an error that names its line. A condition that skips much gets a ``Part``.

Trips are means over the warps of all blocks. Where only some warps have work, the mean is a fraction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .executed import Loop, Part
from .launches import WARP, Call, Launch

Plan = Mapping[str, int]
NOISE = "cuda/scale_weights.cuh"


@dataclass(frozen=True)
class Trips:
    """What is declared for a kernel of one call.

    Attributes:
        loops: all its loops.
        parts: what does not always run.
        slots: places for tokens in the tiles of all blocks that share no channels or columns; those of tiles that are
            not full count too.
        l2: bytes that all blocks read and write through L2.
        dram: bytes that have to come from memory or go there.
        again: bytes that an earlier kernel has read, and that come from L2 if they fit there.
    """

    loops: list[Loop]
    parts: list[Part]
    slots: int
    l2: float
    dram: float
    again: float = 0


def ceil(value: float, step: float) -> int:
    return int(-(-value // step))


def shape(launch: Launch, template: str) -> list[int]:
    """The numbers in the arguments of a template in a kernel's name."""
    found = re.search(rf"\b{template}<([^<>]*)>", launch.name)
    assert found is not None, launch.name
    return [int(number) for number in re.findall(r"-?\d+", found[1])]


def multiplications(call: Call, depth: int) -> tuple[str, int]:
    """The tensor-core instructions that a product of 16 rows and 8 columns has over ``depth`` of k."""
    return "HMMA", depth // (8 if call.dtype == "float32" else 16)


def down_project_float32(call: Call, plan: Plan, launch: Launch) -> Trips:
    file = "cuda/float32/down_project.cuh"
    _, columns, warps_m = shape(launch, "DownTile")
    warps_k, rows = launch.warps // warps_m, plan["down_rows"]
    channels = 8 * columns
    parts = ceil(call.channels, channels)
    depth = 32 * warps_k
    chunks = ceil(call.dim, plan["chunk"])
    patches = (call.tokens - call.prefix) / plan["down_tiles"]
    summing = ceil(min(channels, call.channels), WARP) / launch.warps if call.scales > 1 else 0
    vectors = call.dim / (8 * WARP)
    loops = [
        Loop(file, "row < (warp() + 1) * rows; row += kAtOnce", rows / launch.warps / 2),
        Loop(file, "row < (warp() + 1) * rows; ++row", rows / launch.warps),
        Loop(file, "column < dim; column += kVector * kLanes) sum +=", vectors, ("LDG", call.bytes // 2)),
        Loop(file, "column < dim; column += kVector * kLanes) {", vectors, ("LDG", call.bytes // 2)),
        Loop(file, "column < p.chunk; column +=", plan["chunk"] / (8 * WARP), ("LDG", 4 + call.bytes // 2)),
        Loop(file, "first < dim; first += p.chunk", chunks),
        Loop(file, "k < p.chunk && first + k < dim", call.dim / depth / chunks),
        Loop(file, "k < dim; k += kDepth * Tile::kWarpsK", call.dim / depth),
        Loop("cuda/float32/warp_product.cuh", "k < kDepth; k += kVector) add_plain", 4),
        Loop(file, "i < Tile::kRows * Tile::kN; i += kThreads", rows * columns / launch.threads, ("STG", 1)),
        Loop(file, "row < min(Tile::kRows, p.tokens - first_token)", patches * summing, ("LDS", 1)),
    ]
    held = min(1.0, vectors / 4)  # the part of a row's registers that has columns
    skipped = [
        Part(file, "squares += squares_of(x[r][i], mean)", held),
        Part(file, "store(u + (row + r) * stride + column", held),
    ]
    tiles = call.batch * plan["down_tiles"]
    x, h = call.x_bytes, call.batch * call.tokens * call.channels * call.bytes
    weights = call.channels * call.dim * call.bytes + 8 * call.dim
    l2 = x * parts + h + tiles * (weights + 8 * call.dim * (parts - 1))
    return Trips(loops, skipped, tiles * rows, l2, x + weights)


def mix_and_up_project_float32(call: Call, plan: Plan, launch: Launch) -> Trips:
    file, depthwise, noise = "cuda/float32/mix_and_up_project.cuh", "cuda/float32/depthwise.cuh", NOISE
    rows, warps = plan["mix_rows"], launch.warps
    tiles = ceil(call.tokens, rows)
    padded = 32 * ceil(call.channels, 32)
    row_bytes = 128 * ceil(padded * call.bytes, 128) + (64 * 2 if call.bytes == 2 else 16)
    clearing = 2 * rows * row_bytes // call.bytes / (8 * launch.threads)
    over_channels = ceil(call.channels, WARP) / warps
    items, inside = convolution_float32(call, rows)
    steps = ceil(call.channels, 32)
    groups = ceil(call.dim, 32) / plan["slices"]
    loops = [
        Loop(file, "i < 2 * kRows * stride", clearing, ("STS", call.bytes // 2)),
        *noise_loops(call, plan, warps),
        Loop(depthwise, "i < p.channels * kTaps", call.channels * 49 / launch.threads),
        Loop(depthwise, "s < p.scales; ++s) tap", call.scales, ("LDG", 1)),
        Loop(depthwise, "c < p.channels; c += kThreads", over_channels),
        Loop(depthwise, "s < p.scales; ++s) sum", call.scales, ("LDG", 1)),
        Loop(file, "token < d.tokens; token += p.blocks * kRows", tiles / plan["mix_blocks"]),
        Loop(depthwise, "item < count * runs * groups", items / tiles / warps),
        Loop(depthwise, "dy < kSide", inside),
        Loop(file, "task < kM * d.channels / 8", rows / 16 * call.channels / 8 / warps),
        Loop(file, "k < d.channels; k += kDepth", steps, multiplications(call, 32)),
        Loop(file, "group < last; group += kUpColumns * kWarps", groups / warps),
        Loop(file, "k < p.up_weight.columns; k += kDepth", steps),
        Loop("cuda/float32/warp_product.cuh", "k < kDepth; k += kVector) add_plain", 4),
    ]
    skipped = [
        Part(noise, "if (warp() < kMaxScales) {", 3 / warps),
        Part(depthwise, "if (p.filtered) {", 0),
        Part(file, "if (first_token + row < d.prefix) m = load_pair", ceil(call.prefix, rows) / tiles),
    ]
    x, h = call.x_bytes, call.batch * call.tokens * call.channels * call.bytes
    weights = call.channels * (call.dim + call.channels * plan["slices"]) * call.bytes
    kernels = 4 * call.scales * call.channels * 50
    around = 1 + 6 * call.width / rows  # rows of the grid in the neighbourhood of a tile, over those in it
    l2 = 2 * x + plan["slices"] * h * around + call.batch * tiles * weights + launch.blocks * kernels
    return Trips(loops, skipped, call.batch * tiles * rows, l2, x + weights, again=x)


def convolution_float32(call: Call, rows: int) -> tuple[int, float]:
    """The runs of patches in the convolution of an image, and the mean of the rows of taps that are inside the grid."""
    runs = ceil(call.width, 8)
    width, groups = ceil(call.width, runs), ceil(call.channels // 2, WARP)
    items, inside = 0, 0
    for token in range(0, call.tokens, rows):
        first, last = max(0, token - call.prefix), min(token + rows, call.tokens) - call.prefix
        for row in range(first // call.width, ceil(last, call.width)):
            for run in range(runs):
                begin = max(run * width, first - row * call.width)
                if begin < min((run + 1) * width, call.width, last - row * call.width):
                    items += groups
                    inside += groups * (min(row + 3, call.height - 1) - max(row - 3, 0) + 1)
    return items, inside / items


def noise_loops(call: Call, plan: Plan, warps: int) -> list[Loop]:
    """The loops of the noise estimator in a block."""
    return [
        Loop(NOISE, "c < p.channels; c += kThreads", ceil(call.channels, WARP) / warps),
        Loop(NOISE, "tile < p.tiles", plan["down_tiles"], ("LDG", 1)),
        Loop(NOISE, "q < p.hidden; q += kWarps", call.hidden / warps),
        Loop(NOISE, "c = lane(); c < p.channels", ceil(call.channels, WARP), ("LDG", 1)),
        Loop(NOISE, "q = lane(); q < p.hidden", ceil(call.hidden, WARP), ("LDG", 1)),
    ]


def down_project(call: Call, plan: Plan, launch: Launch) -> Trips:
    file = "cuda/down_project.cuh"
    m, _, warps_m, warps_n, columns, ring = shape(launch, "DownTile")
    warps_k, rows = launch.warps // (warps_m * warps_n), plan["down_rows"]
    parts = ceil(call.channels, plan["down_channels"])
    stages, whole = ceil(call.dim, columns), call.dim // columns
    tiles = call.batch * plan["down_tiles"]
    busy = ceil(call.tokens, 16 * m) / (plan["down_tiles"] * warps_m)  # the part of the warps that have rows
    loops = [
        Loop(file, "s < whole_stages; ++s", whole),
        Loop(file, "other < Tile::kWarpsK - 1; ++other", warps_k - 1),
    ]
    skipped = [
        Part(file, "if (more) copies.start", max(0, stages - ring + 1) / stages),
        Part(file, "if (has_rows) multiply(stage, Tile::kColumns", busy),
        Part(file, "if (whole_stages < stages) {", stages - whole),
        Part(file, "if (warp_k > 0) {", 1 - 1 / warps_k),
        Part(file, "if (warp_k == 0) {", 1 / warps_k),
        Part(file, "if (adds && channel < p.channels) {", busy / warps_k),
    ]
    weights = 2 * call.channels * call.dim * call.bytes
    h = call.batch * call.tokens * call.channels * call.bytes
    l2 = call.x_bytes * parts + h + tiles * weights
    return Trips(loops, skipped, tiles * rows, l2, call.x_bytes + weights)


def mix_and_up_project(call: Call, plan: Plan, launch: Launch) -> Trips:
    file, depthwise = "cuda/mix_and_up_project.cuh", "cuda/depthwise.cuh"
    m, warps_m, steps, run, lines = shape(launch, "MixTile")
    rows, warps, chunks = plan["mix_rows"], launch.warps, 2 * steps
    height, width, tiles = plan["grid.height"], plan["grid.width"], plan["grid.tiles"]
    runs, groups = ceil(width, plan["grid.run"]), ceil(call.channels, 2 * WARP)
    heights = [min(height, call.height - row) for row in range(0, call.height, height)]
    across = plan["grid.across"]
    items = across * runs * groups * sum(ceil(rows_here, lines) for rows_here in heights) / tiles / warps
    mean_lines = sum(heights) / sum(ceil(rows_here, lines) for rows_here in heights)
    used = [rows_here * width for rows_here in heights for _ in range(across)] + [0] * (
        tiles - plan["grid.patch_tiles"]
    )
    used[-1] += call.prefix
    busy = sum(ceil(slots, 16 * m) for slots in used) / (tiles * warps_m)
    mixing = sum(ceil(slots, 16) for slots in used) / (tiles * rows / 16)
    stage_rows = 32 * warps // warps_m
    passes = ceil(plan["slice"], stage_rows)
    filled = plan["slice"] / (passes * stage_rows)
    patch_tiles = plan["grid.patch_tiles"] / tiles
    shorter = float(plan["grid.run"] < run)
    loops = [
        Loop(file, "i < 2 * Tile::kRows * Rows::kRowBytes / 16", 2 * rows * chunks / launch.threads, ("STS", 1)),
        Loop(
            file, "row < p.channels; row += kThreads / kChunks", call.channels * chunks / launch.threads, ("LDGSTS", 1)
        ),
        *noise_loops(call, plan, warps),
        Loop(file, "row < kTaps + 1; row += kWarps", 50 / warps),
        Loop(file, "c = 2 * lane(); c < p.channels", groups, ("STS", 1)),
        Loop(file, "tile < p.grid.tiles; tile += p.blocks", tiles / plan["mix_blocks"]),
        Loop(depthwise, "r < tiles.height + kSide - 1", patch_tiles * (height + 6) / warps),
        Loop(depthwise, "to < end; to +=", ceil(plan["grid.pitch"], WARP // chunks), ("LDGSTS", 1)),
        Loop(file, "item < lines * runs * groups", items),
        Loop(depthwise, "dy < kSide + lines - 1", 6 + mean_lines),
        Loop(file, "behind < last;", passes),
    ]
    skipped = [
        Part(NOISE, "if (warp() < kMaxScales) {", 3 / warps),
        Part(file, "if (p.channels < 16 * Tile::kSteps) {", float(call.channels < 16 * steps)),
        Part(file, "if (p.early) fetch_mix_weight", float(plan["early"])),
        Part(file, "if (!p.early) {", float(not plan["early"])),
        Part(file, "if (begun && p.early)", float(plan["early"]) * (1 - plan["mix_blocks"] / tiles)),
        Part(file, "if (threadIdx.x < Tile::kRows) {", rows / launch.threads),
        Part(file, "convolve<Tile, (Tile::kRun > 2", shorter),
        Part(file, "convolve<Tile, Tile::kRun>(", 1 - shorter),
        Part(file, "if (p.filtered) {", 0),
        Part(depthwise, "sum[r][i].x = fmaf(", 7 * mean_lines / (lines * (6 + mean_lines))),
        Part(depthwise, "sum[r][i].y = fmaf(", 7 * mean_lines / (lines * (6 + mean_lines))),
        Part(file, "mix<Tile>(p, this_warp", mixing),
        Part(file, "if (tokens[half] >= 0 && tokens[half] < p.prefix) {", 16 * ceil(call.prefix, 16) / (rows * tiles)),
        Part(file, "if (p.stages == 1 && !starts) {", float(plan["stages"] == 1) * (1 - 1 / passes)),
        Part(file, "if (p.stages == 2 && behind < last)", float(plan["stages"] == 2) * (1 - 1 / passes)),
        Part(file, "if (has_rows && column - kVector", busy * filled),
    ]
    around = (min(height + 6, call.height) * min(width + 6, call.width)) / (height * width)
    h = call.batch * call.tokens * call.channels * call.bytes
    weights = call.channels * call.dim * call.bytes
    per_block = call.channels * call.channels * call.bytes + 4 * call.scales * call.channels * 50
    l2 = 2 * call.x_bytes + plan["slices"] * h * around + call.batch * tiles * weights + launch.blocks * per_block
    return Trips(loops, skipped, call.batch * tiles * rows, l2, call.x_bytes + weights, again=call.x_bytes)


Declared = Callable[[Call, Plan, Launch], Trips]
KERNELS: dict[str, Declared] = {"down_project": down_project, "mix_and_up_project": mix_and_up_project}
"""What is declared, by the name of the kernel, in 16-bit types."""
FLOAT32: dict[str, Declared] = {"down_project": down_project_float32, "mix_and_up_project": mix_and_up_project_float32}
"""The same for float32."""
