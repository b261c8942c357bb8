"""All that the steps found in one file, and a short table of it."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from bench.gpu.files import RESULTS, WORK

WIDEST = 900


def summary(to: Path) -> None:
    """Write ``results.json`` and ``summary.txt``; called after each step."""
    found = {
        path.stem: json.loads(path.read_text())
        for path in sorted(RESULTS.glob("*.json"), key=lambda path: path.stat().st_mtime)
    }
    (to / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    steps = WORK / "steps.txt"
    lines = ["steps:", steps.read_text().rstrip()] if steps.exists() else []
    for step, parts in found.items():
        lines.append(f"\n== {step}")
        lines += _cases(parts) if "cases" in parts else _parts(parts)
    (to / "summary.txt").write_text("\n".join(lines) + "\n")


def _parts(parts: dict[str, Any]) -> list[str]:
    texts = {key: json.dumps(value) for key, value in parts.items()}
    return [
        f"  {key}: {text if len(text) < WIDEST else text[:WIDEST] + ' ...'}"
        for key, text in texts.items()
    ]


def _cases(document: dict[str, Any]) -> list[str]:
    """Of ``bench throughput``."""
    told = {name: document[name] for name in ("gpu", "precision", "batch", "images")}
    lines = [f"  {told}", f"  {'case':40}{'ms':>9}{'img/s':>9}{'plain/':>10}{'prep./':>10}  GPU"]
    for case in document["cases"]:
        times = case["milliseconds"] or ([case["first"]] if case["first"] else [])
        if not times:
            lines.append(f"  {case['case']:40} {case['error'] or 'not reached'}")
            continue
        middle = statistics.median(times)
        ratios = [case["to_plain"], case["to_prepared"]]
        shown = "".join(" " * 10 if value is None else f"{value:10.3f}" for value in ratios)
        busy, peak = case["gpu"]["busy"], case["gpu"]["peak_bytes"]
        use = "" if busy is None else f"  {busy:.0%} busy"
        use += "" if peak is None else f"  {peak / 2**20:.0f} MiB"
        mark = "" if case["milliseconds"] else "  (first round)"
        lines.append(f"  {case['case']:40}{middle:9.4f}{1000 / middle:9.0f}{shown}{use}{mark}")
    return lines
