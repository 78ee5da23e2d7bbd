"""What came of a run: results.json and a table in Markdown."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from ht_kernels.bench.runner import milliseconds, times
from ht_kernels.files import write_whole


def write(document: dict[str, Any], directory: Path) -> None:
    """Write results.json and results.md, each whole."""
    directory.mkdir(parents=True, exist_ok=True)
    content = json.dumps(document, indent=1, default=_plain) + "\n"
    write_whole(directory / "results.json", content.encode(), "the results")
    write_whole(directory / "results.md", ("\n".join(table(document)) + "\n").encode(), "the table")


def table(document: dict[str, Any]) -> list[str]:
    """The results in Markdown, the failures first."""
    lines = [f"# {document['gpu']['name']}, {document['date'][:10]}", ""]
    lines += [f"{name}: {value}" for name, value in document["gpu"].items() if name != "name"]
    lines += [f"commit {document['commit']}, torch {document['torch']}, triton {document['triton']}", ""]
    lines += _correctness(document["correctness"])
    for row in document["sanitizer"]:
        lines.append(
            f"compute-sanitizer {row['tool']}: {row.get('skipped') or ('clean' if row['passed'] else 'FAILED')}"
        )
    for section, error in document["errors"].items():
        lines.append(f"{section}: FAILED: {error}")
    lines.append("")
    for row in document["timings"]:
        lines += _timing(row)
    if latency := document.get("latency"):
        lines.append(
            f"One frame, host to host, {latency['frames']} times: p50 {latency['p50']:.3f}, p95 {latency['p95']:.3f}, "
            f"p99 {latency['p99']:.3f}, max {latency['max']:.3f} ms"
        )
    return lines


def _correctness(rows: list[dict[str, Any]]) -> list[str]:
    ran = [row for row in rows if "error" in row]
    bad = [row for row in ran if not (row["passed"] and row["same_bits"])]
    lines = [f"correct: {len(ran) - len(bad)} of {len(ran)} comparisons with float64, {len(rows) - len(ran)} skipped"]
    for row in bad:
        lines.append(
            f"WRONG: {row['backend']} {row['dtype']} {row['shape']}: error {row['error']:.1e}, allowed "
            f"{row['limit']:.1e}, same bits twice: {row['same_bits']}"
        )
    for backend in dict.fromkeys(row["backend"] for row in ran):
        for dtype in dict.fromkeys(row["dtype"] for row in ran):
            errors = [
                (row["error"], row["published_error"])
                for row in ran
                if (row["backend"], row["dtype"]) == (backend, dtype)
            ]
            if errors:
                worst, theirs = max(errors)
                lines.append(f"{backend} {dtype}: largest error {worst:.1e}, published module there {theirs:.1e}")
    return lines


def _timing(row: dict[str, Any]) -> list[str]:
    timings = row["timings"]
    lines = [f"## {row['what']}, {row['dtype']}, B={row['batch']}", ""]
    baselines = [name for name in timings if name.startswith(("published", "torch.fft"))]
    lines.append(f"| | ms | {' | '.join(f'over {name}' for name in baselines)} | floor |")
    lines.append("|---|--:|" + "--:|" * (len(baselines) + 1))
    for name, timing in sorted(timings.items(), key=lambda item: -item[1].median):
        ratios = [times(timings[other].median / timing.median) for other in baselines]
        floor = f"{100 * row['floor'] / timing.median:.0f}%" if row["floor"] else ""
        lines.append(f"| {name} | {milliseconds(timing.median)} | {' | '.join(ratios)} | {floor} |")
    lines += [f"{name} did not run: {error}" for name, error in row["failed"].items()]
    if row.get("agreement"):
        lines.append(
            ", ".join(f"{name} agrees with float32 on {share:.4f}" for name, share in row["agreement"].items())
        )
    return [*lines, ""]


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
