"""Reading a run directory: metrics, configuration, summary and evaluations, as plain typed values.

The files come from a run that may have been killed at any moment, and possibly from a stranger: a torn line
is skipped and counted, a value of the wrong type is treated as absent, nothing is executed.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from recipes.errors import UserError
from recipes.report.curves import Point
from recipes.report.evaluation_result import EvaluationResult, read_results
from recipes.report.evaluation_table import with_figures
from recipes.run_directory import RunDirectory, read_metrics_log

#: What a training line may carry; each becomes a curve over the steps.
TRAINING_KEYS = (
    "loss",
    "lr",
    "grad_norm",
    "weight_norm",
    "update_ratio",
    "tokens_per_second",
    "tokens_per_second_per_device",
    "mfu",
    "memory_bytes",
    "consumed_tokens",
    "consumed_samples",
)

#: Figures of parts of the model: "grad_norm.layer_03.mlp", "moe.max_load".
PART_KEYS = ("grad_norm", "weight_norm", "update_ratio", "moe")

#: A configuration longer than this is cut in the page.
MAX_CONFIG_CHARS = 200_000


@dataclass
class Series:
    """One curve: finite values over strictly increasing steps."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        """Appends a point; of several at the same step the last counts."""
        if self.steps and self.steps[-1] == step:
            self.values[-1] = value
        else:
            self.steps.append(step)
            self.values.append(value)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def points(self) -> list[Point]:
        return list(zip(map(float, self.steps), self.values, strict=True))

    @property
    def last(self) -> float | None:
        return self.values[-1] if self.values else None

    def at(self, step: int) -> float:
        """Of a curve from 0, the value at a step, between and beyond points on a straight line."""
        points = [(0, 0.0), *zip(self.steps, self.values, strict=True)]
        place = min(max(1, bisect_left(self.steps, step) + 1), len(points) - 1)
        (before, low), (after, high) = points[place - 1], points[place]
        return low + (step - before) * (high - low) / (after - before)

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
    #: parts["grad_norm"]["layer_03.mlp"] is the curve of "grad_norm.layer_03.mlp".
    parts: dict[str, dict[str, Series]]
    #: benchmarks["boolq"]["acc"] is a curve over tokens, of scores while training;
    #: benchmarks["boolq"]["acc, smoke"] one of scores of checkpoints, from files in evaluation/.
    benchmarks: dict[str, dict[str, Series]]
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
    #: By the names of their files in evaluation/, without .json.
    evaluations: dict[str, EvaluationResult]
    notes: list[str]

    @property
    def last_step(self) -> int:
        curves = [*self.training.values(), *(c for metrics in self.valid.values() for c in metrics.values())]
        return max((curve.steps[-1] for curve in curves if len(curve)), default=0)


def number(value: object) -> float | None:
    """`value` as a finite float, or None. Booleans and numbers in strings are not numbers.

    Beyond 1e300 a number counts as infinite, below 1e-300 as 0: charts add and divide.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    if not abs(result) <= 1e300:
        return None
    return result if abs(result) >= 1e-300 else 0.0


def whole(value: object) -> int | None:
    """`value` as an int, or None if it is not a whole number."""
    result = number(value)
    return int(result) if result is not None and result == int(result) else None


def read_run(run_dir: Path) -> RunData:
    """Reads a run directory.

    Raises:
        UserError: there is no run in it.
    """
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such run directory")
    directory = RunDirectory(run_dir)
    if not directory.metrics_file.is_file():
        raise UserError(f"{run_dir}: no metrics.jsonl here, so nothing to report (is it a run directory?)")
    log = read_metrics_log(directory.metrics_file)
    run = RunData(
        name=run_dir.resolve().name,
        training={key: Series() for key in TRAINING_KEYS},
        valid={},
        parts={key: {} for key in PART_KEYS},
        benchmarks={},
        resumed=_resumed(log.appended),
        non_finite=[],
        samples=[],
        unreadable_lines=log.unreadable_lines,
        elapsed_s=_elapsed(log.appended),
        config=_read_config(directory.config_file),
        summary={},
        evaluations={},
        notes=[],
    )
    for record in log.history():
        _add_record(run, record)
    run.valid = {name: run.valid[name] for name in sorted(run.valid)}
    if not any(len(curve) for curve in run.training.values()) and not run.valid:
        raise UserError(
            f"{directory.metrics_file}: no metrics in it yet (a line is written at every logged step)"
        )
    _read_summary(run_dir / "summary.json", run)
    _read_evaluations(run_dir / "evaluation", run)
    _add_checkpoints(run)
    return run


def _resumed(appended: list[dict[str, Any]]) -> list[int]:
    """The steps of all resumes since the run was last started from step 0."""
    steps: list[int] = []
    for record in appended:
        if record.get("event") == "started":
            steps = []
        elif record.get("event") == "resumed":
            steps.append(record["step"])
    return steps


def _elapsed(appended: list[dict[str, Any]]) -> float | None:
    """The seconds of all processes together, each of which counts its own from 0; None if none is told."""
    seconds: list[float] = []
    new_process = True
    for record in appended:
        if record.get("event") in ("resumed", "started"):
            new_process = True
        elapsed = number(record.get("elapsed_s"))
        if elapsed is None:
            continue
        # Fewer than before: a new process whose own line was lost.
        if new_process or elapsed < seconds[-1]:
            seconds.append(elapsed)
        seconds[-1], new_process = elapsed, False
    return sum(seconds) if seconds else None


def _add_record(run: RunData, record: dict[str, Any]) -> None:
    step: int = record["step"]
    if record.get("event") == "sample":
        prompt, text = record.get("prompt"), record.get("completion")
        if isinstance(prompt, str) and isinstance(text, str):
            run.samples.append((step, prompt, text))
        return
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
        elif (part := key.partition("."))[0] in PART_KEYS and part[2]:
            run.parts[part[0]].setdefault(part[2], Series()).add(step, finite)
        elif key.startswith("valid."):
            # Set names may hold dots; the metric's name does not.
            name, _, metric = key.removeprefix("valid.").rpartition(".")
            if name:
                run.valid.setdefault(name, {}).setdefault(metric, Series()).add(step, finite)
        elif key.startswith("eval."):
            name, _, metric = key.removeprefix("eval.").rpartition(".")
            tokens = whole(record.get("consumed_tokens"))
            if name and tokens is not None:
                run.benchmarks.setdefault(name, {}).setdefault(metric, Series()).add(tokens, finite)


def _read_config(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read(MAX_CONFIG_CHARS + 1)
    return text if len(text) <= MAX_CONFIG_CHARS else text[:MAX_CONFIG_CHARS] + "\n# (cut here)"


def _read_summary(path: Path, run: RunData) -> None:
    if not path.is_file():
        return
    try:
        summary = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        summary = None
    if not isinstance(summary, dict):
        run.notes.append("summary.json could not be read and is left out.")
        return
    run.summary = summary
    resumed = whole(summary.get("resumed_at_step"))
    if resumed is not None and not run.resumed:
        run.resumed.append(resumed)


def _read_evaluations(folder: Path, run: RunData) -> None:
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            run.evaluations[path.stem] = read_results(path)
        except UserError:
            run.notes.append(f"evaluation/{path.name} could not be read and is left out.")


def _add_checkpoints(run: RunData) -> None:
    """The scores of checkpoints, evaluation/step_00001000-<table>.json, as curves over tokens."""
    tokens = run.training["consumed_tokens"]
    if tokens.last is None or tokens.steps[0] == 0:
        return
    for name, result in run.evaluations.items():  # By ascending step, as their names are sorted.
        found = re.fullmatch(r"step_(\d+)-(.+)", name)
        if found is None:
            continue
        for task in with_figures(result):
            for metric, score in result.tasks[task].scores.items():
                label = f"{metric.removesuffix(',none')}, {found[2]}"
                curve = run.benchmarks.setdefault(task, {}).setdefault(label, Series())
                at = round(tokens.at(int(found[1])))
                if (value := number(score.value)) is not None and (not curve.steps or at > curve.steps[-1]):
                    curve.add(at, value)
