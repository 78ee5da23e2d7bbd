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


def down_project(call: Call, plan: Plan, launch: Launch) -> Trips:
    file = "cuda/down_project.cuh"
    row_tiles, _, warps_m, warps_n, columns, _ = shape(launch, "DownTile")
    warps_k, rows, tiles = launch.warps // (warps_m * warps_n), plan["down_rows"], plan["down_tiles"]
    parts = ceil(call.channels, plan["down_channels"])
    whole = call.dim // columns
    has_rows = ceil(call.tokens, 16 * row_tiles) / (tiles * warps_m)  # the part of the warps
    loops = [Loop(file, "s < whole_stages; ++s", whole), Loop(file, "other < Tile::kWarpsK - 1", warps_k - 1)]
    skipped = [
        Part(file, "if (has_rows) multiply(stage, Tile::kColumns", has_rows),
        Part(file, "if (whole_stages < stages) {", float(whole * columns < call.dim)),
        Part(file, "if (warp_k > 0) {", (warps_k - 1) / warps_k),
        Part(file, "if (warp_k == 0) {", 1 / warps_k),
        Part(file, "if (adds && channel < p.channels) {", has_rows / warps_k),
    ]
    x, h = call.x_bytes, call.batch * call.tokens * call.channels * call.bytes
    weights = 2 * call.channels * call.dim * call.bytes
    all_tiles = call.batch * tiles
    return Trips(loops, skipped, all_tiles * rows, x * parts + h + all_tiles * weights, x + weights)


def mix_and_up_project(call: Call, plan: Plan, launch: Launch) -> Trips:
    file, depthwise = "cuda/mix_and_up_project.cuh", "cuda/depthwise.cuh"
    row_tiles, warps_m, steps, longest_run, most_lines = shape(launch, "MixTile")
    rows, warps, tiles = plan["mix_rows"], launch.warps, plan["grid.tiles"]
    height, width, across = plan["grid.height"], plan["grid.width"], plan["grid.across"]
    at_once = launch.threads // (2 * steps)  # rows that the threads copy at once
    stages = ceil(plan["slice"], 32 * warps // warps_m)
    per_block = tiles / plan["mix_blocks"]
    early, later = float(plan["early"]), (stages - 1) / stages
    beside = "true" in launch.name  # kNorm: out is read again, and normed is written
    runs = sum(ceil(min(width, call.width - i * width), plan["grid.run"]) for i in range(across))
    heights = [min(height, call.height - row) for row in range(0, call.height, height)]
    lines = [ceil(rows_inside, most_lines) for rows_inside in heights]  # that are convolved together
    taps = 6 + call.height / sum(lines)  # rows of patches that reach them
    items = sum(lines) * runs * ceil(call.channels, 64)
    short = plan["grid.run"] < longest_run
    copies, halo_rows = ("LDGSTS", 1), height + 6
    used = [inside * width for inside in heights for _ in range(across)] + [0] * (tiles - plan["grid.patch_tiles"])
    used[-1] += call.prefix  # slots of each tile
    has_rows = sum(ceil(slots, 16 * row_tiles) for slots in used) / (warps_m * tiles)  # the part of the warps
    has_columns = call.dim / plan["slices"] / (stages * 32 * warps // warps_m)
    met = 7 * call.height / sum(lines) / (most_lines * taps)  # of the products of a row of patches, those in the kernel
    loops = [
        Loop(file, "i < 2 * Tile::kRows * Rows::kRowBytes / 16", 4 * rows * steps / launch.threads, ("STS", 1)),
        Loop(file, "i < last - first; i += 2 * kThreads", plan["slice"] / (2 * launch.threads), ("LDGSTS", 2)),
        Loop(file, "row < p.channels; row += kThreads / kChunks", call.channels / at_once, copies),
        *noise_estimator(call, plan, warps),
        Loop(file, "c = 2 * lane(); c < Tile::kCell", ceil(call.channels, 64), ("STS", 8)),
        Loop(file, "tile < p.grid.tiles; tile += p.blocks", per_block),
        Loop(depthwise, "r < tiles.height + kSide - 1", halo_rows / warps * plan["grid.patch_tiles"] / tiles),
        Loop(
            depthwise, "to < end; to += kLanes / kChunks * kCell", ceil(plan["grid.pitch"], WARP // (2 * steps)), copies
        ),
        Loop(file, "item < lines * runs * groups", items / tiles / warps),
        Loop(depthwise, "dy < kSide + lines - 1", taps),
        Loop(file, "for (int behind = first; behind < last;)", stages),
    ]
    if beside:
        loops.append(Loop(file, "begin < last; begin += kAtOnce * kStep", ceil(stages, 6 // row_tiles)))
    skipped = [
        Part("cuda/scale_weights.cuh", "if (warp() < kMaxScales) {", 3 / warps),
        Part(file, "if (p.channels < 16 * Tile::kSteps) {", float(call.channels < 16 * steps)),
        Part(file, "if (p.early) fetch_mix_weight", early),
        Part(file, "if (!p.early) {", 1 - early),
        Part(file, "if (p.stages == 1 && !starts) {", later * (plan["stages"] == 1)),
        Part(file, "if (p.stages == 2 && behind < last) copies.start", later * (plan["stages"] == 2)),
        Part(file, "convolve<Tile, (Tile::kRun > 2", float(short)),
        Part(file, "convolve<Tile, Tile::kRun>", float(not short)),
        Part(file, "if (p.filtered) {", 0),
        Part(depthwise, "sum[r][i].x = fmaf(", met),
        Part(depthwise, "sum[r][i].y = fmaf(", met),
        Part(file, "if (has_rows && column - Tile::kStageRows", has_rows * has_columns),
        Part(file, "if (threadIdx.x < Tile::kRows) {", rows / launch.threads),
        Part(file, "if (static_cast<unsigned>(tokens[half]) <", ceil(call.prefix, 16) / (rows / 16 * tiles)),
    ]
    x, h = call.x_bytes, call.batch * call.tokens * call.channels * call.bytes
    around = min(call.height, halo_rows) * min(call.width, width + 6) / (height * width)
    weights, kernels = call.channels * call.dim * call.bytes, 4 * call.scales * call.channels * 50
    mixing = launch.blocks * call.channels**2 * call.bytes * (1 if early else per_block)
    l2 = 2 * x + plan["slices"] * h * around + call.batch * tiles * weights + mixing + launch.blocks * kernels
    normed = 2 * x if beside else 0
    return Trips(loops, skipped, call.batch * tiles * rows, l2 + normed, x + weights + normed / 2, again=x)


def noise_estimator(call: Call, plan: Plan, warps: int) -> list[Loop]:
    file = "cuda/scale_weights.cuh"
    return [
        Loop(file, "c < p.channels; c += kThreads", ceil(call.channels, WARP) / warps),
        Loop(file, "tile < p.tiles", plan["down_tiles"], ("LDG", 1)),
        Loop(file, "q < p.hidden; q += kWarps", call.hidden / warps),
        Loop(file, "c = lane(); c < p.channels", ceil(call.channels, WARP), ("LDG", 1)),
        Loop(file, "q = lane(); q < p.hidden", ceil(call.hidden, WARP), ("LDG", 1)),
    ]


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
    file, depthwise, noise = (
        "cuda/float32/mix_and_up_project.cuh",
        "cuda/float32/depthwise.cuh",
        "cuda/scale_weights.cuh",
    )
    rows, warps = plan["mix_rows"], launch.warps
    tiles = ceil(call.tokens, rows)
    padded = 32 * ceil(call.channels, 32)
    row_bytes = 128 * ceil(padded * call.bytes, 128) + (64 * 2 if call.bytes == 2 else 16)
    clearing = 2 * rows * row_bytes // call.bytes / (8 * launch.threads)
    over_channels = ceil(call.channels, WARP) / warps
    items, inside = convolution(call, rows)
    steps = ceil(call.channels, 32)
    groups = ceil(call.dim, 32) / plan["slices"]
    loops = [
        Loop(file, "i < 2 * kRows * stride", clearing, ("STS", call.bytes // 2)),
        *noise_estimator(call, plan, warps),
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


def convolution(call: Call, rows: int) -> tuple[int, float]:
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


def layer_norm(call: Call, plan: Plan, launch: Launch) -> Trips:
    file = "cuda/layer_norm.cuh"
    loops = [Loop(file, "first < dim; first += kAtOnce * kStep", ceil(call.dim, 1024))]
    x = call.x_bytes
    return Trips(loops, [], call.batch * call.tokens, 2 * x, x, again=x)


KERNELS: dict[str, Callable[[Call, Plan, Launch], Trips]] = {
    "down_project": down_project,
    "layer_norm": layer_norm,
    "mix_and_up_project": mix_and_up_project,
    "float32::down_project": down_project_float32,
    "float32::mix_and_up_project": mix_and_up_project_float32,
}
"""What is declared, by the name of the kernel in ht::cuda."""
