"""How many instructions a warp executes: a kernel's machine code times the trips of the loops that it lies in.

A loop of the machine code is known by the source line of its ``for``, which the branch back has, and its trips are
declared for that line. The compiler may make several loops of one, of which each takes several trips at once and the
last ones leave a rest to code without a loop. ``Loop.once`` says how often an instruction stands in one trip, which
shows how many a loop takes at once, and which part of the rest runs.

Trips are means over the warps of the kernel, so counts are means too. What is in no loop and no :class:`Part` counts
once, whether it runs or not: code that a condition skips makes the count too large, never too small.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .sass import Frame, Instruction, Kernel


@dataclass(frozen=True)
class Loop:
    """The trips of a loop.

    Attributes:
        file: the source file, from the folder of the sources on.
        line: text of the line of its ``for``; all lines of the file with that text are meant.
        trips: how often it runs each time it is reached, as a mean over warps.
        once: the name of an instruction and how often one trip executes it; needed where the compiler unrolls.
        call: text of the line of that file that the loop is inlined at, where its trips depend on the caller, or "".
            A declaration with such a line goes before one without.
    """

    file: str
    line: str
    trips: float
    once: tuple[str, int] | None = None
    call: str = ""


@dataclass(frozen=True)
class Part:
    """A part of the source that does not always run: a statement, or what stands in the braces behind it.

    Attributes:
        file: the source file.
        line: text of the line of its condition, of the statement itself, or of the call that is inlined there.
        share: how often it runs each time it is reached, as a mean over warps.
    """

    file: str
    line: str
    share: float


@dataclass
class Executed:
    """What a warp executes, on average.

    Attributes:
        kinds: instructions by kind.
        multiplied: multiply-adds of its tensor-core instructions.
        shared_bytes: that its lanes read and write in shared memory.
        waits: how often it waits for loads from global memory: at the first instruction, in the order of the code, that
            needs one of those on their way; all others are then taken to be there too.
        lines: instructions by source line, with what was inlined there.
        factors: for each loop of the machine code its source line and its trips, in order.
    """

    kinds: Counter[str]
    multiplied: float
    shared_bytes: float
    waits: float
    lines: Counter[str]
    factors: list[tuple[str, float]]

    @property
    def instructions(self) -> float:
        return sum(self.kinds.values())


def count(kernel: Kernel, loops: Sequence[Loop], parts: Sequence[Part], sources: Path) -> Executed:
    """Count what a warp executes.

    Raises:
        ValueError: a loop of the machine code has no declaration, or one names a line that is not in its file.
    """
    places = [_Place(loop, sources) for loop in loops]
    skipped = [(part, _ranges(sources, part.file, part.line, body=True)) for part in parts]
    owners = [_owner(kernel, number, places, sources) for number in range(len(kernel.loops))]
    trips = _trips(kernel, owners)
    copies = _copies(kernel, places, owners, trips)
    result = Executed(Counter(), 0.0, 0.0, 0.0, Counter(), [])
    result.factors = [(place.loop.line, trips[number]) for number, place in enumerate(owners)]
    on_their_way: dict[int, float] = {}  # registers of loads, and how often these run
    for block, content in kernel.blocks.items():
        around = kernel.loops_of(block)
        times = 1.0
        for number in around:
            times *= trips[number]
        for one in content.instructions:
            weight = times
            for part, ranges in skipped:
                if _inside(one.stack, part.file, ranges):
                    weight *= part.share
            for place in places:
                share = copies.get((id(place), around[0] if around else None))
                if share is not None and not any(owners[n] is place for n in around) and place.has(one):
                    weight *= share
            result.kinds[one.kind] += weight  # type: ignore[assignment]
            result.multiplied += weight * one.multiplied
            for file, line in set(one.stack):
                result.lines[f"{file}:{line}"] += weight  # type: ignore[assignment]
            if one.kind in ("shared load", "shared store"):
                result.shared_bytes += weight * 32 * one.bytes
            if on_their_way and one.touches(on_their_way.keys()):
                result.waits += min(weight, max(on_their_way.values()))
                on_their_way.clear()
            on_their_way.update(dict.fromkeys(one.loaded, weight))
    return result


class _Place:
    """A declared loop and where its source lies."""

    def __init__(self, loop: Loop, sources: Path) -> None:
        self.loop = loop
        self.ranges = _ranges(sources, loop.file, loop.line, body=False)
        self.calls = _ranges(sources, loop.file, loop.call, body=False) if loop.call else []

    def begins(self, stack: Sequence[Frame], depth: int) -> bool:
        """Whether a frame of a stack is the line of the loop, and the frames around it are of its call."""
        file, line = stack[depth]
        here = file == self.loop.file and any(line == lines.start for lines in self.ranges)
        return here and (not self.calls or _inside(stack[depth + 1 :], file, self.calls))

    def has(self, one: Instruction) -> bool:
        """Whether an instruction comes from the loop."""
        inside = _inside(one.stack, self.loop.file, self.ranges)
        return inside and (not self.calls or _inside(one.stack, self.loop.file, self.calls))

    def once(self, instructions: Iterable[Instruction]) -> float:
        """How many trips these instructions are."""
        if self.loop.once is None:
            return 0
        name, number = self.loop.once
        return sum(one.root == name for one in instructions) / number


def _owner(kernel: Kernel, number: int, places: Sequence[_Place], sources: Path) -> _Place:
    """The declaration of a loop, by the branches back, the innermost source line first."""
    stacks = [one.stack for one in kernel.loops[number].back]
    for depth in range(max(map(len, stacks), default=0)):
        for stack in stacks:
            for place in places:
                if depth < len(stack) and place.begins(stack, depth):
                    return place
    file, line = stacks[0][0] if stacks and stacks[0] else ("an unknown file", 0)
    text = _text(sources, file)[line - 1].strip() if line and (sources / file).exists() else ""
    raise ValueError(
        f"the machine code of {kernel.name} has a loop at {file}:{line}, `{text}`, and benchmarks/gpu/trips.py does "
        "not say how often it runs: add its line there"
    )


def _trips(kernel: Kernel, owners: Sequence[_Place]) -> list[float]:
    """How often each loop of the machine code runs, where several share the trips of one in the source."""
    groups = defaultdict(list)
    for number, place in enumerate(owners):
        callers = frozenset(one.stack[1:] for one in kernel.loops[number].back)
        groups[id(place), kernel.loops[number].parent, callers].append(number)
    trips = [0.0] * len(owners)
    for numbers in groups.values():
        place = owners[numbers[0]]
        at_once = {number: max(1.0, place.once(kernel.own(number))) for number in numbers}
        left = place.loop.trips
        for number in sorted(numbers, key=lambda n: -at_once[n]):
            whole = left // at_once[number] if at_once[number] > 1 else left
            trips[number], left = whole, left - whole * at_once[number]
    return trips


def _copies(
    kernel: Kernel, places: Sequence[_Place], owners: Sequence[_Place], trips: Sequence[float]
) -> dict[tuple[int, int | None], float]:
    """Which part runs of the copies of a loop's body that lie in no loop, by loop and by the loop that they lie in."""
    shares = {}
    for place in places:
        if place.loop.once is None:
            continue
        found: dict[int | None, list[Instruction]] = defaultdict(list)
        for block, content in kernel.blocks.items():
            around = kernel.loops_of(block)
            if not any(owners[number] is place for number in around):
                found[around[0] if around else None] += [one for one in content.instructions if place.has(one)]
        for parent, instructions in found.items():
            there = place.once(instructions)
            loops = [n for n, owner in enumerate(owners) if owner is place and kernel.loops[n].parent == parent]
            calls = max(1, len({tuple(one.stack[1:] for one in kernel.loops[n].back) for n in loops}))
            done = sum(trips[n] * max(1.0, place.once(kernel.own(n))) for n in loops)
            if there:
                shares[id(place), parent] = min(1.0, max(0.0, calls * place.loop.trips - done) / there)
    return shares


@cache
def _text(sources: Path, file: str) -> list[str]:
    return (sources / file).read_text().splitlines()


def _ranges(sources: Path, file: str, line: str, body: bool) -> list[range]:
    """The lines of the statements that begin on lines with that text: with ``body``, of what is in their braces."""
    text = _text(sources, file)
    starts = [number for number, content in enumerate(text, 1) if line in content]
    if not starts:
        raise ValueError(f"benchmarks/gpu/trips.py names `{line}` in {file}, which has no such line")
    found = []
    for start in starts:
        depth, stop, braces = 0, start, False
        for number in range(start, len(text) + 1):
            content, stop = text[number - 1].partition("//")[0], number
            depth += sum(content.count(sign) for sign in "({") - sum(content.count(sign) for sign in ")}")
            braces = braces or content.rstrip().endswith("{")
            if depth <= 0 and content.rstrip().endswith((";", "}")):
                break
        found.append(range(start + (body and braces), stop + 1))
    return found


def _inside(stack: Sequence[Frame], file: str, ranges: Sequence[range]) -> bool:
    return any(name == file and any(line in lines for lines in ranges) for name, line in stack)
