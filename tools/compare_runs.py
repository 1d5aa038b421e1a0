"""Where two runs begin to differ: ``python -m tools.compare_runs RUN_A RUN_B``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.console import printable
from recipes.report.figures import distinct_labels
from recipes.report.markdown import markdown_table
from recipes.report.run_differences import Change, CurveDifference, RunDifferences, compare_runs
from recipes.training.changed_settings import Difference

EXAMPLES = """examples:
  python -m tools.compare_runs outputs/a outputs/b
  python -m tools.compare_runs outputs/a outputs/b --json | jq .curves.loss

Says which settings, versions and data two runs were made with that are not the same, at which step each
figure (losses, learning rate, norms, bits per byte) begins to differ, and by how much from there on. Figures
count as the same if they are equal to the last bit, at all steps that both runs have logged; throughput,
memory and times are left out.

exit codes: 0 the runs are the same; 1 something differs that figures depend on, or a figure does; 2 an error
"""
SHOWN = 8
"""Steps of a difference that are shown."""


def main() -> int:
    parser = Arguments("tools.compare_runs", "Say where two runs begin to differ.", EXAMPLES)
    parser.add_argument("first", type=Path, metavar="RUN_A")
    parser.add_argument("second", type=Path, metavar="RUN_B")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    paths = [options.first, options.second]
    names = distinct_labels(paths, lambda path: path.resolve().name)
    found = compare_runs(*paths)
    print(_as_json(found) if options.json else printable_lines(_as_text(found, names)))
    return 0 if _same(found) else 1


def printable_lines(lines: list[str]) -> str:
    """Values come from files of others, perhaps."""
    return "\n".join(map(printable, lines))


def _deciding(change: Change) -> bool:
    return Difference(change.key, change.first, change.second).decides


def _same(found: RunDifferences) -> bool:
    differ = any(curve.begins is not None for curve in found.curves)
    settings = [change for change in found.settings if _deciding(change)]
    return not (differ or settings or found.code or found.data or found.guards)


def _as_text(found: RunDifferences, names: list[str]) -> list[str]:
    lines = []
    settings = [change for change in found.settings if _deciding(change)]
    free = [change.key for change in found.settings if not _deciding(change)]
    parts = [("settings", settings), ("code", found.code), ("data", found.data)]
    if found.guards:
        parts.append(("guards", found.guards))
    for title, changes in parts:
        lines.append(f"{title}:" if changes else f"{title}: the same")
        if changes:
            rows = [[change.key, _shown(change.first), _shown(change.second)] for change in changes]
            lines += [*markdown_table(["", *names], rows, texts=3), ""]
    if free:
        lines.append(f"settings that figures do not depend on: {', '.join(free)} differ")
    if not found.curves:
        lines.append(f"figures: no step in common ({found.steps[0]:,} and {found.steps[1]:,} steps)")
    elif not any(curve.begins is not None for curve in found.curves):
        last = max(curve.steps[-1] for curve in found.curves)
        lines.append(f"figures: the same at all common steps, up to step {last:,}")
    else:
        lines += ["", *_curves(found.curves)]
        loss = next((curve for curve in found.curves if curve.key == "loss"), None)
        if loss is not None and loss.begins is not None:
            lines += ["", "loss from there on:", *_course(loss, names)]
    if found.curves and found.steps[0] != found.steps[1]:
        lines.append(f"last step: {found.steps[0]:,} and {found.steps[1]:,}")
    return lines


def _curves(curves: list[CurveDifference]) -> list[str]:
    rows = []
    for curve in curves:
        if (begins := curve.begins) is None:
            rows.append([curve.key, "the same", "", "", ""])
            continue
        largest = curve.largest
        rows.append(
            [
                curve.key,
                f"{curve.steps[begins]:,}",
                f"{curve.second[begins] - curve.first[begins]:+.3g}",
                f"{curve.second[largest] - curve.first[largest]:+.3g}",
                f"{curve.steps[largest]:,}",
            ]
        )
    return markdown_table(["figure", "differs from step", "by", "at most by", "at step"], rows)


def _course(curve: CurveDifference, names: list[str]) -> list[str]:
    begins = curve.begins
    assert begins is not None
    count = len(curve.steps) - begins
    # Ever further apart: the beginning says most.
    offsets = {0, count - 1, *(round(count ** (part / (SHOWN - 1))) - 1 for part in range(SHOWN))}
    rows = []
    for place in sorted(begins + offset for offset in offsets):
        a, b = curve.first[place], curve.second[place]
        rows.append([f"{curve.steps[place]:,}", f"{a:.6f}", f"{b:.6f}", f"{b - a:+.3g}"])
    return markdown_table(["step", *names, "difference"], rows)


def _shown(value: Any) -> str:
    if isinstance(value, dict):  # Of data: what a source is recognised by.
        tokens = value.get("tokens")
        return f"{str(value.get('content'))[:12]}" + (f", {tokens:,} tokens" if type(tokens) is int else "")
    if type(value) is int:
        return f"{value:,}"
    return "–" if value is None else str(value)


def _as_json(found: RunDifferences) -> str:
    return json.dumps(
        {
            "same": _same(found),
            "settings": [
                dataclasses.asdict(entry) | {"decides": _deciding(entry)} for entry in found.settings
            ],
            "code": [dataclasses.asdict(entry) for entry in found.code],
            "data": [dataclasses.asdict(entry) for entry in found.data],
            "guards": [dataclasses.asdict(entry) for entry in found.guards],
            "curves": {curve.key: _course_of(curve) for curve in found.curves},
            "last_steps": found.steps,
        },
        indent=2,
        default=str,
    )


def _course_of(curve: CurveDifference) -> dict[str, Any]:
    begins = curve.begins
    steps = zip(curve.steps, curve.first, curve.second, strict=True)
    return {
        "common_steps": len(curve.steps),
        "differs_from": None if begins is None else curve.steps[begins],
        "largest_at": None if begins is None else curve.steps[curve.largest],
        "differences": [
            [step, b - a] for step, a, b in steps if begins is not None and step >= curve.steps[begins]
        ],
    }


if __name__ == "__main__":
    run_tool(main)
