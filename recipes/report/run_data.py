"""Reading a run directory: metrics, configuration and summary, as plain typed values.

The files come from a run that may have been killed at any moment, and possibly from a stranger:
a torn line is skipped and counted, a value of the wrong type is treated as absent, nothing is executed.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from recipes.errors import UserError

#: What a training line may carry; each becomes a curve over the steps.
TRAINING_KEYS = ("loss", "lr", "grad_norm", "tokens_per_second", "mfu", "consumed_tokens", "consumed_samples")

#: A configuration longer than this is cut in the page.
MAX_CONFIG_CHARS = 200_000


@dataclass
class Series:
    """One curve: finite values over strictly increasing steps."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        """Appends a point; points at or after `step` belong to an attempt this one replaces."""
        if self.steps and self.steps[-1] >= step:
            self.drop_after(step - 1)
        self.steps.append(step)
        self.values.append(value)

    def drop_after(self, step: int) -> None:
        """Forgets every point after `step`: the run was resumed there."""
        keep = bisect_right(self.steps, step)
        del self.steps[keep:], self.values[keep:]

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last(self) -> float | None:
        return self.values[-1] if self.values else None

    @property
    def median(self) -> float | None:
        return median(self.values) if self.values else None


@dataclass
class RunData:
    """Everything the page shows."""

    name: str
    training: dict[str, Series]
    #: valid["hi"]["bits_per_byte"] is the curve of "valid.hi.bits_per_byte".
    valid: dict[str, dict[str, Series]]
    #: Steps at which the run was resumed.
    resumed: list[int]
    #: Steps whose loss or gradient norm was NaN or infinite.
    non_finite: list[int]
    #: Completions made while training: step, prompt, completion.
    samples: list[tuple[int, str, str]]
    #: Lines of metrics.jsonl that could not be read.
    unreadable_lines: int
    elapsed_s: float | None
    config: str | None
    summary: dict[str, Any]
    notes: list[str]

    @property
    def last_step(self) -> int:
        curves = [*self.training.values(), *(c for metrics in self.valid.values() for c in metrics.values())]
        return max((curve.steps[-1] for curve in curves if len(curve)), default=0)


def number(value: object) -> float | None:
    """`value` as a finite float, or None. Booleans and numbers in strings are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) else None


def whole(value: object) -> int | None:
    """`value` as an int, or None if it is not a whole number."""
    result = number(value)
    return int(result) if result is not None and result == int(result) else None


def read_run(run_dir: Path) -> RunData:
    """Reads `run_dir`; raises UserError if there is no run in it."""
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such run directory")
    metrics = run_dir / "metrics.jsonl"
    if not metrics.is_file():
        raise UserError(f"{run_dir}: no metrics.jsonl here, so nothing to report (is it a run directory?)")
    run = RunData(
        name=run_dir.resolve().name,
        training={key: Series() for key in TRAINING_KEYS},
        valid={},
        resumed=[],
        non_finite=[],
        samples=[],
        unreadable_lines=0,
        elapsed_s=None,
        config=_read_config(run_dir / "config.yaml"),
        summary={},
        notes=[],
    )
    _read_metrics(metrics, run)
    if not any(len(curve) for curve in run.training.values()) and not run.valid:
        raise UserError(f"{metrics}: no metrics in it yet (a line is written at every logged step)")
    _read_summary(run_dir / "summary.json", run)
    return run


def _read_metrics(path: Path, run: RunData) -> None:
    total, latest, timed = 0.0, None, False
    for record in _records(path, run):
        step = whole(record.get("step"))
        if step is None or step < 0:
            run.unreadable_lines += 1
            continue
        if record.get("event") in ("resumed", "started"):
            _go_back(run, step, anew=record["event"] == "started")
            # A new process: it counts its own seconds from 0, and the parts add up.
            total, latest = total + (latest or 0.0), None
            continue
        if record.get("event") == "sample":
            prompt, text = record.get("prompt"), record.get("completion")
            if isinstance(prompt, str) and isinstance(text, str):
                run.samples.append((step, prompt, text))
            continue
        _add_record(run, step, record)
        elapsed = number(record.get("elapsed_s"))
        if elapsed is not None:
            # A new process that said nothing.
            if latest is not None and elapsed < latest:
                total += latest
            latest, timed = elapsed, True
    run.elapsed_s = total + (latest or 0.0) if timed else None
    # A resume can take back every point of a curve.
    kept = {name: {key: c for key, c in metrics.items() if len(c)} for name, metrics in run.valid.items()}
    run.valid = {name: kept[name] for name in sorted(kept) if kept[name]}


def _go_back(run: RunData, step: int, anew: bool) -> None:
    """Forgets what came after `step`, where the run was resumed; everything if it was started `anew`."""
    if anew:
        step, run.resumed = -1, []
    else:
        run.resumed.append(step)
    run.non_finite = [s for s in run.non_finite if s <= step]
    run.samples = [sample for sample in run.samples if sample[0] <= step]
    for curve in _curves(run):
        curve.drop_after(step)


def _curves(run: RunData) -> Iterator[Series]:
    yield from run.training.values()
    for metrics in run.valid.values():
        yield from metrics.values()


def _add_record(run: RunData, step: int, record: dict[str, Any]) -> None:
    for key, value in record.items():
        finite = number(value)
        if finite is None:
            # Some writers put null for NaN; a null gradient norm only means that none was taken.
            bad = key == "loss" and (value is None or isinstance(value, float))
            bad = bad or (key == "grad_norm" and isinstance(value, float))
            if bad and step not in run.non_finite[-1:]:
                run.non_finite.append(step)
            continue
        if key in run.training:
            run.training[key].add(step, finite)
        elif key.startswith("valid."):
            # Set names may hold dots; the metric's name does not.
            name, _, metric = key.removeprefix("valid.").rpartition(".")
            if name:
                run.valid.setdefault(name, {}).setdefault(metric, Series()).add(step, finite)


def _records(path: Path, run: RunData) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.strip():
                continue
            record = _parse(line)
            if record is None:
                run.unreadable_lines += 1
                # A crash can leave half a line to which the resumed run appended a whole one.
                record = _parse(line[line.rfind("{") :]) if line.rfind("{") > 0 else None
            if record is not None:
                yield record


def _parse(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _read_config(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read(MAX_CONFIG_CHARS + 1)
    return text if len(text) <= MAX_CONFIG_CHARS else text[:MAX_CONFIG_CHARS] + "\n# (cut here)"


def _read_summary(path: Path, run: RunData) -> None:
    if not path.is_file():
        return
    summary = _parse(path.read_text(encoding="utf-8", errors="replace"))
    if summary is None:
        run.notes.append("summary.json could not be read and is left out.")
    else:
        run.summary = summary
        resumed = whole(summary.get("resumed_at_step"))
        if resumed is not None and not run.resumed:
            run.resumed.append(resumed)
