"""The report of a run in Markdown: an overview, everything that went wrong, and each section's checks and times."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ht_kernels.bench.text import milliseconds, times
from ht_kernels.files import write_whole

from .measure import COPY
from .plan import NAMES

Documents = Mapping[str, dict[str, Any]]
"""The results of the sections, by name."""
_HOW_TO_READ = (
    'Where times are compared, "over X" is how many times as fast as X a row is, and the last column is the share of '
    "its time that a copy of the inputs takes; of masks, a copy of as many bytes as have to move."
)
_REHEARSAL = "Rehearsal on the CPU: its times say nothing about a GPU"
_NOT_RUN: dict[str, Any] = {"status": "not run", "seconds": 0.0, "items": []}


def write(documents: Documents, output: Path) -> None:
    """Write results.md, which appears complete or not at all."""
    write_whole(output / "results.md", ("\n".join(table(documents)) + "\n").encode(), "the table")


def table(documents: Documents) -> list[str]:
    """The lines of the report."""
    lines = [*_machines(documents), "", "| section | what came of it | seconds |", "|---|---|--:|"]
    for name in NAMES:
        document = documents.get(name, _NOT_RUN)
        lines.append(f"| {name} | {document['status']} | {document['seconds']:.0f} |")
    lines += ["", _HOW_TO_READ]
    for line in wrong(documents, cut_off=False):
        lines += ["", f"WRONG: {line}"]
    for name in NAMES:
        if name in documents:
            lines += ["", f"## {name}", *_section(documents[name])]
    return lines


def wrong(documents: Documents, cut_off: bool = True) -> list[str]:
    """A line for everything that failed or gave a wrong result; with ``cut_off`` also for sections that did not end."""
    lines = []
    for name in NAMES:
        document = documents.get(name, _NOT_RUN)
        status, rows = document["status"], _rows(document)
        if status.startswith("failed") or (cut_off and status != "done"):
            lines.append(f"{name}: {status}")
        if rows and all("skipped" in row for row in rows):
            lines.append(f"{name}: nothing ran: {rows[0]['skipped']}")
        lines += [
            f"{item['item']}: {item['error']}" for item in (document or {"items": ()})["items"] if "error" in item
        ]
        lines += [line for row in rows for line in _wrong_row(row)]
    return lines


def _rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for item in document["items"] for row in item.get("rows", ())]


def _wrong_row(row: dict[str, Any]) -> list[str]:
    lines = [f"{row['what']}: {name} did not run: {error}" for name, error in row.get("failed", {}).items()]
    if row["kind"] == "check" and "error" in row and not (row["passed"] and row["same_bits"]):
        lines.append(
            f"{row['backend']}, {row['what']}, {row['dtype']}: error {row['error']:.1e}, allowed {row['limit']:.1e}, "
            f"same bits twice: {row['same_bits']}"
        )
    elif row["kind"] == "agreement" and not row["passed"]:
        lines.append(f"{row['what']}: {_agreement(row)}")
    elif row["kind"] == "tool" and row.get("passed") is False:
        lines.append(f"{row['what']}: {row['output'][-500:]}")
    return lines


def _machines(documents: Documents) -> list[str]:
    """The lines that describe the machine. If sections ran on several machines or commits, each is named with them."""
    found: dict[str, list[str]] = {}
    for name, document in documents.items():
        if machine := document["machine"]:
            gpu = ", ".join(f"{key} {value}" for key, value in machine["gpu"].items() if key != "name")
            versions = ("commit", "driver", "torch", "triton", "cuda")
            words = ", ".join([f"{machine['date']}", *(f"{key} {machine[key]}" for key in versions if machine[key])])
            heading = _REHEARSAL if machine["dry_run"] else machine["gpu"]["name"]
            found.setdefault("\n".join(filter(None, [f"# {heading}\n", gpu, words])), []).append(name)
    lines = []
    for words, names in found.items():
        lines += words.split("\n")
        if len(found) > 1:
            lines.append(f"({', '.join(names)})")
    return lines


def _section(document: dict[str, Any]) -> list[str]:
    rows = _rows(document)
    lines = _checks([row for row in rows if row["kind"] == "check"])
    for row in rows:
        if row["kind"] != "check":
            lines.append("")
        if row["kind"] == "build":
            lines.append(f"{row['what']}: {row['took']} s")
        elif row["kind"] == "tool":
            lines.append(f"{row['what']}: {row.get('skipped') or ('clean' if row['passed'] else 'FAILED')}")
        elif row["kind"] == "ceilings":
            lines.append(
                f"copy {row['copy_bytes_per_second'] / 1e9:.0f} GB/s, large matrix products in bfloat16 "
                f"{row['bfloat16_operations_per_second'] / 1e12:.0f} TFLOP/s, in float32 "
                f"{row['float32_operations_per_second'] / 1e12:.1f} TFLOP/s"
            )
        elif row["kind"] == "timing":
            lines += _timing(row)
        elif row["kind"] == "agreement":
            lines.append(f"{row['what']}: {_agreement(row)}")
        elif row["kind"] == "latency":
            lines.append(
                f"{row['what']}, {row['frames']} times: p50 {row['p50']:.3f}, p95 {row['p95']:.3f}, p99 "
                f"{row['p99']:.3f}, largest {row['max']:.3f} ms"
            )
    return lines


def _checks(rows: list[dict[str, Any]]) -> list[str]:
    """The number of checks that passed and, for each dtype, our largest error as a share of its limit."""
    if not rows:
        return []
    ran = [row for row in rows if "error" in row]
    good = [row for row in ran if row["passed"] and row["same_bits"]]
    lines = ["", f"{len(good)} of {len(ran)} comparisons with float64 are right", ""]
    if ran:
        lines += ["| dtype | largest share of the limit | error | limit | published there | where |"]
        lines += ["|---|--:|--:|--:|--:|---|"]
    for dtype in dict.fromkeys(row["dtype"] for row in ran):
        worst = max((row for row in ran if row["dtype"] == dtype), key=lambda row: row["error"] / row["limit"])
        figures = " | ".join(f"{worst[key]:.1e}" for key in ("error", "limit", "published_error"))
        lines.append(f"| {dtype} | {100 * worst['error'] / worst['limit']:.0f}% | {figures} | {worst['what']} |")
    for row in rows:
        if "skipped" in row:
            lines += ["", f"not run: {row['what']}, {row['dtype']}: {row['skipped']}"]
    return lines


def _agreement(row: dict[str, Any]) -> str:
    return (
        f"of {row['pixels']} pixels {row['ours_differs']} differ from float64, and {row['published_differs']} of the "
        "published model in the same dtype"
    )


def _timing(row: dict[str, Any]) -> list[str]:
    """A table of the times in milliseconds, slowest first.

    It has the speed-up over each published implementation, and the time of a copy of the inputs as a share of each
    time.
    """
    medians = {name: timing["median"] for name, timing in row["timings"].items()}
    baselines = [name for name in medians if name.startswith(("published", "torch."))]
    lines = [f"### {row['what']}{', ' + row['backend'] if row.get('backend') else ''}", ""]
    lines.append(f"| | ms | quartiles | {' | '.join(f'over {name}' for name in baselines)} | copy of x |")
    lines.append("|---|--:|--:|" + "--:|" * (len(baselines) + 1))
    for name, median in sorted(medians.items(), key=lambda pair: -pair[1]):
        ratios = [times(medians[other] / median) for other in baselines]
        copy = medians.get(f"{COPY}, graph" if name.endswith(", graph") else COPY)
        share = f"{100 * copy / median:.0f}%" if copy else ""
        quartiles = [milliseconds(row["timings"][name][key]) for key in ("lower", "upper")]
        cells = [name, milliseconds(median), "-".join(quartiles), *ratios, share]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
