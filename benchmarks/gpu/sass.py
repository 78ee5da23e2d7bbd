"""Reads machine code as nvdisasm prints it: instructions with their source lines, basic blocks and loops.

``nvdisasm -c -gi`` prints a kernel of a file that was compiled with ``-lineinfo`` one instruction a line, and before it
the source line that the instruction comes from, with the calls that were inlined around it. :func:`read` makes basic
blocks of it and finds the natural loops: a branch back to a block that every path to the branch goes through.

Not all instructions run. A call leads to a slow path that the compiler keeps for rare numbers, such as the division of
a denormal, and ``BRA.DIV`` to one for warps whose lanes have parted. Blocks that only these reach are left out, and so
is a block that ends in such a call; ``Kernel.slow`` counts their instructions.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field

Frame = tuple[str, int]
"""A source file, from the folder of the sources on where the line lies in it, and a line."""

KINDS = {
    "tensor": ("HMMA", "IMMA", "HGMMA", "WGMMA", "QGMMA"),
    "fp32": ("FFMA", "FADD", "FMUL", "FMNMX", "FSEL", "FSET", "FSETP", "FCHK", "FSWZADD", "FFMA2", "FADD2", "FMUL2"),
    "half": ("HADD2", "HFMA2", "HMUL2", "HSET2", "HSETP2", "HMNMX2"),
    "convert": ("F2F", "F2I", "I2F", "F2FP", "I2I", "I2FP", "FRND"),
    "special": ("MUFU",),
    "global load": ("LDG", "LD"),
    "global store": ("STG", "ST", "RED", "ATOMG"),
    "async copy": ("LDGSTS", "UBLKCP", "UTMALDG", "LDGDEPBAR", "DEPBAR", "ARRIVES"),
    "shared load": ("LDS", "LDSM"),
    "shared store": ("STS", "STSM", "ATOMS"),
    "shuffle": ("SHFL", "VOTE", "MATCH", "REDUX", "WARPSYNC"),
    "constant": ("LDC", "ULDC", "LDCU"),
    "local memory": ("LDL", "STL"),
    "control": (
        *("BRA", "BRX", "EXIT", "RET", "CALL", "BSSY", "BSYNC", "BREAK", "BAR", "NOP", "YIELD", "NANOSLEEP"),
        *("MEMBAR", "ERRBAR", "SYNCS", "PREEXIT", "ACQBULK", "BMOV", "CCTL", "ELECT", "UCGABAR_ARV", "UCGABAR_WAIT"),
    ),
}
"""The kinds of instructions that are told apart, by the beginning of their names. All others are ``integer``: index and
address arithmetic, moves and predicates."""

_KIND = {name: kind for kind, names in KINDS.items() for name in names}
_LINE = re.compile(r'File "([^"]+)", line (\d+)')
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*);")
_LABEL = re.compile(r"^(\.L_x_\w+|\$?[\w.$]+):\s*$")
_REGISTER = re.compile(r"\bR(\d+)\b")
_TARGET = re.compile(r"`\(([^)]+)\)")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a warp.

    Attributes:
        name: its name with modifiers, such as ``LDG.E.128``.
        operands: what stands behind it.
        predicate: what it is conditional on, such as ``@!P0``, or "". It takes an issue slot in any case.
        stack: the source lines, from the innermost inlined function to the kernel.
    """

    name: str
    operands: str
    predicate: str
    stack: tuple[Frame, ...]

    @property
    def root(self) -> str:
        return self.name.partition(".")[0]

    @property
    def kind(self) -> str:
        """One of ``KINDS``, or integer. What never does anything is control: ptxas puts such loads before copies."""
        return "control" if self.predicate == "@!PT" else _KIND.get(self.root, "integer")

    @property
    def target(self) -> str | None:
        """The label that it branches to."""
        found = _TARGET.search(self.operands) if self.root in ("BRA", "CALL", "JMP") else None
        return found[1] if found else None

    @property
    def loaded(self) -> range:
        """The registers that a load from global memory fills."""
        found = _REGISTER.match(self.operands)
        if self.kind != "global load" or found is None:
            return range(0)
        return range(int(found[1]), int(found[1]) + max(1, self.bytes // 4))

    @property
    def multiplied(self) -> int:
        """The multiply-adds of a tensor-core instruction: HMMA.16816 has 16 rows, 8 columns and 16 steps of k."""
        sizes = {"16816": 16, "1688": 8, "1684": 4}
        return 16 * 8 * sum(sizes.get(part, 0) for part in self.name.split(".")) if self.kind == "tensor" else 0

    def touches(self, registers: Set[int]) -> bool:
        """Whether it reads or writes some of these registers. Tensor cores take up to four behind each that is named,
        wide stores as many as they have bytes."""
        if self.kind == "tensor":
            behind = 4
        elif self.kind in ("global store", "shared store"):
            behind = max(1, self.bytes // 4)
        else:
            behind = 1
        named = [int(number) for number in _REGISTER.findall(self.operands)]
        return any(number + i in registers for number in named for i in range(behind))

    @property
    def bytes(self) -> int:
        """What a lane reads or writes of memory with it."""
        if self.root == "LDSM":
            return 4 * int(self.name.rpartition(".")[2]) if self.name[-1].isdigit() else 4
        sizes = [part for part in self.name.split(".") if part in ("128", "64", "U16", "S16", "16", "U8", "S8", "8")]
        return {"128": 16, "64": 8, "16": 2, "8": 1}[sizes[-1].lstrip("US")] if sizes else 4


@dataclass
class Block:
    """A basic block: instructions that run one behind the other."""

    instructions: list[Instruction] = field(default_factory=list)
    next: list[int] = field(default_factory=list)


@dataclass
class Loop:
    """A natural loop.

    Attributes:
        header: the block that it begins with.
        blocks: the numbers of its blocks, those of inner loops included.
        back: the instructions that branch back.
        parent: the number of the smallest loop around it, or None.
    """

    header: int
    blocks: set[int]
    back: list[Instruction]
    parent: int | None = None


@dataclass
class Kernel:
    """A kernel: its blocks, its loops in the order of their headers, and how many instructions lie on slow paths."""

    name: str
    blocks: dict[int, Block]
    loops: list[Loop]
    slow: int

    def loops_of(self, block: int) -> list[int]:
        """The numbers of the loops that a block lies in, the innermost first."""
        inside = [i for i, loop in enumerate(self.loops) if block in loop.blocks]
        return sorted(inside, key=lambda i: len(self.loops[i].blocks))

    def own(self, number: int) -> Iterator[Instruction]:
        """The instructions of a loop that lie in no loop inside it."""
        for block, content in self.blocks.items():
            if self.loops_of(block)[:1] == [number]:
                yield from content.instructions


def count(instructions: Sequence[Instruction]) -> Counter[str]:
    """How many instructions there are of each kind."""
    return Counter(instruction.kind for instruction in instructions)


def read(text: str) -> dict[str, Kernel]:
    """The kernels of a disassembly, by their mangled names."""
    kernels = {}
    for section in re.split(r"^\s*\.section\s+\.text\.", text, flags=re.MULTILINE)[1:]:
        name = re.split(r'[\s,"]', section, maxsplit=1)[0]
        kernels[name] = _kernel(name, section.splitlines())
    return kernels


def _kernel(name: str, lines: Sequence[str]) -> Kernel:
    labels: dict[str, int] = {}
    instructions: list[Instruction] = []
    stack: list[Frame] = []
    fresh = False
    for line in lines:
        if line.lstrip().startswith("//##"):
            frame = _LINE.search(line)
            if frame:
                stack = [*(stack if fresh else []), (_short(frame[1]), int(frame[2]))]
                fresh = True
            continue
        fresh = False
        found = _INSTRUCTION.match(line)
        if found:
            instructions.append(Instruction(found[3], found[4].strip(), found[2] or "", tuple(stack)))
        elif label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
    blocks = _blocks(name, instructions, labels)
    reached = _reached(blocks)
    kept = {number: blocks[number] for number in sorted(reached)}
    for block in kept.values():
        block.next = [number for number in block.next if number in reached]
    slow = len(instructions) - sum(len(block.instructions) for block in kept.values())
    return Kernel(name, kept, _loops(kept), slow)


def _short(path: str) -> str:
    """A path from the folder csrc on, or the file's name alone."""
    path = posixpath.normpath(path)
    return path.rpartition("/csrc/")[2] if "/csrc/" in path else path.rpartition("/")[2]


def _blocks(name: str, instructions: Sequence[Instruction], labels: dict[str, int]) -> dict[int, Block]:
    """Basic blocks by the number of their first instruction."""
    ends = ("BRA", "EXIT", "RET", "CALL", "BRX", "JMP")
    firsts = {0, *labels.values(), *(i + 1 for i, one in enumerate(instructions) if one.root in ends)}
    starts = sorted(first for first in firsts if first < len(instructions))
    blocks = {}
    for start, stop in zip(starts, [*starts[1:], len(instructions)], strict=True):
        block = Block(list(instructions[start:stop]))
        last, following = block.instructions[-1], [stop] if stop < len(instructions) else []
        if last.root == "BRX":
            raise ValueError(f"{name} jumps by a table, {last.name} {last.operands}, which this reader cannot follow")
        if last.root == "CALL" and last.target not in labels:
            raise ValueError(f"{name} calls {last.operands}, which is not inlined, so it would not be counted")
        if last.root == "CALL" and is_slow(last):
            block.next = []
        elif last.root in ("BRA", "JMP", "CALL"):  # some compilers take a call for a far branch
            conditional = last.predicate or ".DIV" in last.name or not last.operands.startswith("`")
            block.next = following if conditional else []
            if ".DIV" not in last.name and last.target is not None:
                block.next = [*block.next, labels[last.target]]
        elif last.root in ("EXIT", "RET"):
            block.next = following if last.predicate else []
        else:
            block.next = following
        blocks[start] = block
    return blocks


def is_slow(one: Instruction) -> bool:
    """Whether an instruction calls a slow path of the compiler's own."""
    return one.root == "CALL" and one.target is not None and one.target.startswith("$__internal")


def _reached(blocks: dict[int, Block]) -> set[int]:
    """Blocks that are reached from the first one without a call of a slow path, and do not end in one."""
    reached, waiting = set(), [0]
    while waiting:
        number = waiting.pop()
        if number in reached or is_slow(blocks[number].instructions[-1]):
            continue
        reached.add(number)
        waiting += blocks[number].next
    return reached


def _loops(blocks: dict[int, Block]) -> list[Loop]:
    dominators = _dominators(blocks)
    before: dict[int, list[int]] = {number: [] for number in blocks}
    for number, block in blocks.items():
        for following in block.next:
            before[following].append(number)
    loops: dict[int, Loop] = {}
    for number, block in blocks.items():
        for header in block.next:
            if header not in dominators[number]:
                continue
            loop = loops.setdefault(header, Loop(header, {header}, []))
            loop.back.append(block.instructions[-1])
            waiting = [number]
            while waiting:
                one = waiting.pop()
                if one not in loop.blocks:
                    loop.blocks.add(one)
                    waiting += before[one]
    found = [loops[header] for header in sorted(loops)]
    for loop in found:
        around = [i for i, other in enumerate(found) if other is not loop and loop.header in other.blocks]
        loop.parent = min(around, key=lambda i: len(found[i].blocks), default=None)
    return found


def _dominators(blocks: dict[int, Block]) -> dict[int, set[int]]:
    """For each block the blocks that every path to it goes through, itself included."""
    before: dict[int, list[int]] = {number: [] for number in blocks}
    for number, block in blocks.items():
        for following in block.next:
            before[following].append(number)
    every = set(blocks)
    dominators = {number: {0} if number == 0 else set(every) for number in blocks}
    changed = True
    while changed:
        changed = False
        for number in blocks:
            if number == 0:
                continue
            common = set.intersection(*(dominators[one] for one in before[number])) if before[number] else set()
            new = common | {number}
            if new != dominators[number]:
                dominators[number], changed = new, True
    return dominators
