"""The model of time for CUDA kernels: its reader of machine code, its formulas, and the kernels' own counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import bounds, executed, limits, machine_code, model_time, sass, trips
from benchmarks.gpu.devices import DEVICES
from benchmarks.gpu.executed import Loop, Part
from benchmarks.gpu.launches import Call

SOURCE = """\
void kernel() {
  start();
  for (int i = 0; i < rows; ++i) {
    load();
    for (int j = 0; j < columns; ++j) multiply();
    if (rare) {
      repair();
    }
  }
  end();
}
"""

MACHINE_CODE = """
	.section	.text.kernel,"ax",@progbits
kernel:
	//## File "/anywhere/csrc/cuda/kernel.cuh", line 2
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   FCHK P0, R0, R1 ;
        /*0020*/               @P0 BRA `(.L_x_9) ;
.L_x_1:
	//## File "/anywhere/csrc/cuda/kernel.cuh", line 4
        /*0030*/                   LDG.E.128 R4, [R2.64] ;
        /*0040*/                   BRA.DIV UR4, `(.L_x_8) ;
.L_x_2:
	//## File "/anywhere/csrc/cuda/inlined.cuh", line 7 inlined at "/anywhere/csrc/cuda/kernel.cuh", line 5
	//## File "/anywhere/csrc/cuda/kernel.cuh", line 5
        /*0050*/                   HMMA.16816.F32.BF16 R8, R4, R12, R8 ;
        /*0060*/                   LDS.64 R12, [R3] ;
	//## File "/anywhere/csrc/cuda/kernel.cuh", line 5
        /*0070*/              @!P1 BRA `(.L_x_2) ;
	//## File "/anywhere/csrc/cuda/kernel.cuh", line 6
        /*0080*/               @P2 BRA `(.L_x_3) ;
	//## File "/anywhere/csrc/cuda/kernel.cuh", line 7
        /*0090*/               @P3 FFMA R8, R8, R8, R8 ;
        /*00a0*/                   MUFU.RCP R8, R8 ;
.L_x_3:
	//## File "/anywhere/csrc/cuda/kernel.cuh", line 3
        /*00b0*/               @P4 BRA `(.L_x_1) ;
	//## File "/anywhere/csrc/cuda/kernel.cuh", line 10
        /*00c0*/                   STG.E.64 [R2.64], R8 ;
        /*00d0*/                   EXIT ;
.L_x_8:
        /*00e0*/                   SHFL.BFLY PT, R9, R9, 0x1, 0x1f ;
        /*00f0*/                   BRA `(.L_x_2) ;
.L_x_9:
        /*0100*/                   MOV R9, 0x110 ;
        /*0110*/                   CALL.REL.NOINC `($__internal_0_$__cuda_sm3x_div_rn_slowpath) ;
        /*0120*/                   BRA `(.L_x_1) ;
$__internal_0_$__cuda_sm3x_div_rn_slowpath:
        /*0130*/                   RET.REL.NODEC R8 `(kernel) ;
"""

ROWS = Loop("cuda/kernel.cuh", "i < rows", 10)
COLUMNS = Loop("cuda/kernel.cuh", "j < columns", 3)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda/kernel.cuh").write_text(SOURCE)
    return tmp_path


def kernel(text: str = MACHINE_CODE) -> sass.Kernel:
    return sass.read(text)["kernel"]


def test_blocks_loops_and_slow_paths() -> None:
    found = kernel()
    assert [(loop.parent, loop.back[0].stack[0]) for loop in found.loops] == [
        (None, ("cuda/kernel.cuh", 3)),
        (0, ("cuda/kernel.cuh", 5)),
    ]
    assert sass.count(list(found.own(1))) == {"tensor": 1, "shared load": 1, "control": 1}
    assert Counter(one.root for one in found.own(0)) == {"LDG": 1, "BRA": 3, "FFMA": 1, "MUFU": 1}
    assert found.slow == 6  # what BRA.DIV and the division of rare numbers lead to
    multiplication = next(found.own(1))
    assert multiplication.stack == (("cuda/inlined.cuh", 7), ("cuda/kernel.cuh", 5))
    sizes = {one.name: one.bytes for block in found.blocks.values() for one in block.instructions}
    assert sizes["LDG.E.128"] == 16 and sizes["LDS.64"] == 8
    assert sass.Instruction("LDSM.16.M88.4", "", "", ()).bytes == 16
    assert sass.Instruction("LDS", "RZ, [RZ]", "@!PT", ()).kind == "control"


@pytest.mark.parametrize(("line", "what"), [("BRX R4 -0x10", "jumps by a table"), ("CALL.ABS R4", "not inlined")])
def test_what_cannot_be_followed_is_said(line: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        kernel(MACHINE_CODE.replace("EXIT", line))


def test_trips_multiply(sources: Path) -> None:
    """A predicated instruction counts as one that runs; a part that is declared rare, by its share."""
    counts = executed.count(kernel(), [ROWS, COLUMNS], [Part("cuda/kernel.cuh", "if (rare) {", 0.5)], sources)
    assert counts.kinds["tensor"] == counts.kinds["shared load"] == 30
    assert counts.kinds["global load"] == 10 and counts.kinds["fp32"] == 1 + 10 * 0.5
    assert counts.kinds["special"] == 5 and counts.kinds["global store"] == 1
    assert counts.shared_bytes == 30 * 32 * 8
    assert counts.waits == 10  # the first product of a row takes what was loaded
    assert counts.lines["cuda/kernel.cuh:5"] == 90
    assert counts.factors == [("i < rows", 10), ("j < columns", 3)]


def test_an_unrolled_loop_shares_its_trips(sources: Path) -> None:
    """A loop that takes four trips at once, and two copies of which one runs: 9 trips are 2 and the first copy."""
    product = "        /*0050*/                   HMMA.16816.F32.BF16 R8, R4, R12, R8 ;\n"
    copy = '//## File "/anywhere/csrc/cuda/kernel.cuh", line 5\n' + product
    text = MACHINE_CODE.replace(product, 4 * product)
    text = text.replace("        /*0080*/", 2 * copy + "        /*0080*/")
    columns = Loop("cuda/kernel.cuh", "j < columns", 9, once=("HMMA", 1))
    counts = executed.count(kernel(text), [ROWS, columns], [], sources)
    assert counts.factors[1] == ("j < columns", 2)
    assert counts.kinds["tensor"] == 10 * (2 * 4 + 1)


def test_trips_may_depend_on_the_caller(sources: Path) -> None:
    """A loop of a function that is inlined at line 5, and that another line calls too."""
    (sources / "cuda/kernel.cuh").write_text(SOURCE + "void inlined() {\n  while (true) body();\n}\n")
    last = '	//## File "/anywhere/csrc/cuda/kernel.cuh", line 5\n        /*0070*/'
    frames = '//## File "/csrc/cuda/kernel.cuh", line 13 inlined at "/csrc/cuda/kernel.cuh", line 5\n'
    text = MACHINE_CODE.replace(last, frames + last)
    loops = [Loop("cuda/kernel.cuh", "while (true)", 5, call="load();"), Loop("cuda/kernel.cuh", "while (true)", 3)]
    assert executed.count(kernel(text), [ROWS, *loops], [], sources).kinds["tensor"] == 30
    loops[0] = Loop("cuda/kernel.cuh", "while (true)", 5, call="multiply();")
    assert executed.count(kernel(text), [ROWS, *loops], [], sources).kinds["tensor"] == 50


def test_loops_that_are_not_declared_are_said(sources: Path) -> None:
    with pytest.raises(ValueError, match=r"a loop at cuda/kernel.cuh:5, `for \(int j.*add its line there"):
        executed.count(kernel(), [ROWS], [], sources)
    with pytest.raises(ValueError, match=r"names `k < depth` in cuda/kernel.cuh, which has no such line"):
        executed.count(kernel(), [ROWS, COLUMNS, Loop("cuda/kernel.cuh", "k < depth", 1)], [], sources)


@pytest.mark.parametrize(
    ("bound", "changes"),
    [
        ("issue slots", {"kinds": {"integer": 1e5}}),
        ("fp32 lanes", {"kinds": {"fp32": 1e5}}),
        ("tensor cores", {"multiplied": 2e8}),
        ("special functions", {"kinds": {"special": 1e5}}),
        ("shared memory", {"shared_bytes": 1e8}),
        ("latency", {"waits": 1e4}),
        ("L2", {"l2": 1e9}),
        ("DRAM", {"dram": 1e9}),
    ],
)
def test_the_bound_is_what_there_is_most_of(bound: str, changes: dict[str, object]) -> None:
    little = {"kinds": {"integer": 10.0}, "multiplied": 0.0, "shared_bytes": 0.0, "waits": 0.0, "l2": 0.0, "dram": 0.0}
    much: dict[str, Any] = {**little, **changes}
    work = bounds.Work(blocks=8 * 108, warps=8, registers=32, shared=0, **much)
    seconds = bounds.bounds(work, DEVICES["A100"])  # half as many lanes for float32 as a cycle can start
    assert max(seconds, key=lambda name: seconds[name]) == bound


def test_the_fullest_multiprocessor_decides() -> None:
    device = DEVICES["T4"]

    def issue(blocks: int) -> float:
        work = bounds.Work(blocks, 8, 64, 0, {"integer": 1e4}, 0, 0, 0, 0, 0)
        return bounds.bounds(work, device)["issue slots"] - bounds.START

    assert issue(1) == issue(device.multiprocessors) == pytest.approx(8 * 1e4 / 4 / device.clock)
    assert issue(device.multiprocessors + 1) == pytest.approx(2 * issue(1))


@pytest.mark.parametrize(("registers", "shared", "blocks"), [(32, 0, 8), (96, 0, 2), (129, 0, 1), (32, 50_000, 4)])
def test_blocks_that_fit_a_multiprocessor(registers: int, shared: int, blocks: int) -> None:
    work = bounds.Work(100, 8, registers, shared, {}, 0, 0, 0, 0, 0)
    assert bounds.resident(work, DEVICES["H100"]) == blocks


@pytest.mark.skipif(bool(machine_code.missing()), reason="needs nvcc, nvdisasm, cuobjdump and g++")
@pytest.mark.timeout(300)
def test_the_kernels_execute_few_instructions(tmp_path: Path) -> None:
    found = model_time.predict(Call(batch=64), DEVICES["H100"], tmp_path)
    assert [one.launch.function for one in found] == list(limits.INSTRUCTIONS)
    for one in found:
        most = limits.INSTRUCTIONS[one.launch.function]
        assert 0.7 * most < one.per_64 <= most, f"{one.launch.function}: {one.per_64:,.0f} instructions"
        # The products alone are there to the last one, as the sizes of the call give them. down_project multiplies by
        # two matrices, and by ones for each warp over channels, and 224 of 256 slots have rows; the other adds x.
        down, mix = 224 / 256 * 768 * (2 * 64 + 2 * 8), 768 * (64 + 8) + 64 * 64
        products = {"down_project": down, "mix_and_up_project": mix}[one.launch.function]
        per_slot = one.counts.multiplied * one.launch.warps * one.launch.blocks / one.slots
        assert per_slot == pytest.approx(products)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--grid", "14"], "argument --grid: must be two numbers above 0 such as 14,14, got 14"),
        (["--batch", "0"], "argument --batch: must be above 0, got 0"),
        (["--device", "abacus"], "argument --device"),
        (["--measure", "--table"], "argument --measure: needs a GPU that torch sees, and one call"),
    ],
)
def test_wrong_values_are_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        model_time.main(arguments)
    assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.skipif(bool(machine_code.missing()), reason="needs nvcc, nvdisasm, cuobjdump and g++")
def test_what_the_library_refuses_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        model_time.main(["--dim", "100"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "on H200 the library refuses this call: dim and bottleneck must be" in said


def test_runs_of_the_convolution() -> None:
    """A grid of 14 x 14 in tiles of 32 tokens: its rows are two runs of 7, some of them cut by the ends of tiles."""
    items, inside = trips.convolution(Call(batch=1), 32)
    assert 28 < items <= 28 + 2 * 6 and 5 < inside < 7
    assert trips.convolution(Call(batch=1, height=64, width=8), 8)[1] == pytest.approx(
        7 - 2 * (3 + 2 + 1) / 64, abs=0.05
    )
