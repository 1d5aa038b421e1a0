"""The report page: reads a run directory and writes `report.html` beside its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from recipes.files import atomic_write
from recipes.report import sections
from recipes.report.run_data import RunData, read_run
from recipes.report.style import CSS

#: Nothing may be loaded and no script may run, whatever a run's texts contain.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Writes the report of `run_dir` to `out` (default: `run_dir/report.html`) and returns its path."""
    page = render(read_run(run_dir))
    target = out if out is not None else run_dir / "report.html"
    # A lone surrogate from a JSON escape is no character: it becomes "?".
    with atomic_write(target) as file:
        file.write(page.encode("utf-8", errors="replace"))
    return target


def render(run: RunData) -> str:
    """The whole page as HTML."""
    name = escape(sections.printable(run.name))
    body = [
        f"<header><h1>{name}</h1>{_subtitle(run)}</header>",
        _notices(run),
        sections.tiles(run),
        sections.loss(run),
        _pair([sections.throughput(run), sections.gradient_norm(run)]),
        _pair([sections.learning_rate(run), sections.validation_table(run)]),
        sections.accuracy(run),
        sections.completions(run),
        sections.samples(run),
        sections.configuration(run),
        "<footer>Made from metrics.jsonl, config.yaml and summary.json of the run directory.</footer>",
    ]
    return document(f"{name}: run report", [part for part in body if part])


def document(title: str, body: Sequence[str]) -> str:
    """A whole page of HTML parts in this style; `title` and `body` are escaped already."""
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>",
        f"<style>{CSS}</style>",
    ]
    lines = ["<!doctype html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", "<main>"]
    return "\n".join([*lines, *body, "</main>", "</body>", "</html>", ""])


def _subtitle(run: RunData) -> str:
    hardware = run.summary.get("hardware")
    shown = f" on {sections.printable(hardware)}" if isinstance(hardware, str) and hardware else ""
    return f'<p class="sub">Training run{escape(shown)}</p>'


def _notices(run: RunData) -> str:
    notes = list(run.notes)
    if run.non_finite:
        steps = ", ".join(f"{step:,}" for step in run.non_finite[:10])
        more = f" and {len(run.non_finite) - 10:,} more" if len(run.non_finite) > 10 else ""
        notes.append(f"The loss or the gradient norm was not a finite number at step {steps}{more}.")
    if run.unreadable_lines:
        lines = "1 line" if run.unreadable_lines == 1 else f"{run.unreadable_lines:,} lines"
        notes.append(f"{lines} of metrics.jsonl could not be read (left by a crash?) and left out.")
    if not notes:
        return ""
    return f'<div class="notice">{"".join(f"<p>{escape(note)}</p>" for note in notes)}</div>'


def _pair(parts: Sequence[str]) -> str:
    """Two sections beside each other where the window is wide enough."""
    shown = [part for part in parts if part]
    return f'<div class="pair">{"".join(shown)}</div>' if shown else ""
