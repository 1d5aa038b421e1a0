"""Where two runs begin to differ: settings, code, data, guards, figures; from what their directories hold."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recipes.errors import UserError
from recipes.report.run_data import number
from recipes.run_directory import RunDirectory, read_metrics, read_rollbacks

SKIPPED, LEFT_OUT = "skipped steps", "samples left out"
#: Figures that depend on the machine and its load.
OF_TIMES = (
    "tokens_per_second",
    "tokens_per_second_per_device",
    "mfu",
    "memory_bytes",
    "elapsed_s",
    "slowest_rank",
    "slowest_rank_ratio",
)


@dataclass(frozen=True)
class Change:
    """One key with two values; None: it is not there."""

    key: str
    first: Any
    second: Any


@dataclass(frozen=True)
class CurveDifference:
    """One figure of two runs, at the steps at which both have it."""

    key: str
    steps: list[int]
    first: list[float]
    second: list[float]

    @property
    def begins(self) -> int | None:
        """Place of the first step at which they differ, in any bit; None: they are the same."""
        places = range(len(self.steps))
        return next((place for place in places if self.first[place] != self.second[place]), None)

    @property
    def largest(self) -> int:
        """Place of the largest difference."""
        return max(range(len(self.steps)), key=lambda place: abs(self.second[place] - self.first[place]))


@dataclass(frozen=True)
class RunDifferences:
    settings: list[Change]
    code: list[Change]
    data: list[Change]
    guards: list[Change]
    """What they did to the steps that both have: SKIPPED, LEFT_OUT."""
    curves: list[CurveDifference]
    """Of all figures that both have, the same or not; the loss first."""
    steps: tuple[int, int]
    """The last of each run."""


def compare_runs(first: Path, second: Path) -> RunDifferences:
    """Compares two run directories.

    Raises:
        UserError: one is no run directory.
    """
    runs = [_read(path) for path in (first, second)]
    (settings_a, about_a, figures_a), (settings_b, about_b, figures_b) = runs
    shared = [key for key in figures_a if key in figures_b]
    curves = []
    for key in sorted(shared, key=lambda key: (key != "loss", key.startswith("valid."), key)):
        steps = sorted(figures_a[key].keys() & figures_b[key].keys())
        if steps:
            a, b = ([figures[key][step] for step in steps] for figures in (figures_a, figures_b))
            curves.append(CurveDifference(key, steps, a, b))
    last = (_last(figures_a), _last(figures_b))
    return RunDifferences(
        settings=_changes(_flat(settings_a), _flat(settings_b)),
        code=_changes(about_a.get("code", {}), about_b.get("code", {})),
        data=_changes(about_a.get("data", {}), about_b.get("data", {})) + _held_out_changes(about_a, about_b),
        guards=_changes(*(_until(min(last), about["guards"]) for about in (about_a, about_b))),
        curves=curves,
        steps=last,
    )


def _held_out_changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Change]:
    """Of the sets that both runs name: earlier versions named none, and settings say which there are."""
    sets = [about.get("held_out", {}) for about in (first, second)]
    both = sets[0].keys() & sets[1].keys()
    return _changes(*({f"valid.{name}": each[name] for name in sorted(both)} for each in sets))


Figures = dict[str, dict[int, float]]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any], Figures]:
    """Settings; what the guards did, and code and data of the first process whose steps count; figures by key
    and step.
    """
    directory = RunDirectory(path)
    if not directory.metrics_file.is_file():
        raise UserError(f"{path}: no metrics.jsonl here; name the directory of a run")
    settings: Any = {}
    if directory.config_file.is_file():
        try:
            settings = yaml.safe_load(directory.config_file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{directory.config_file}: is not plain YAML") from error
    figures: Figures = {}
    about: dict[str, Any] = {}
    guards = {SKIPPED: {}, LEFT_OUT: _rollbacks(directory.rollbacks_file)}
    for record in read_metrics(directory.metrics_file):
        if record.get("event") == "first_step":
            parts = {key: record.get(key) for key in ("code", "data", "held_out")}
            about = about or {key: part for key, part in parts.items() if isinstance(part, dict)}
        elif record.get("event") in ("skipped_step", "loss_scale"):
            guards[SKIPPED][record["step"]] = f"{record['step']:,}"
        elif "event" not in record:
            for key, value in record.items():
                if key not in (*OF_TIMES, "step") and (figure := number(value)) is not None:
                    figures.setdefault(key, {})[record["step"]] = figure
    return (settings if isinstance(settings, dict) else {}), about | {"guards": guards}, figures


Guards = dict[str, dict[int, str]]
"""What was done, in words, by kind and step."""


def _rollbacks(path: Path) -> dict[int, str]:
    """The samples that a run leaves out, by the step of the loss spike; what is no such list says nothing."""
    found = {}
    with suppress(UserError, ValueError, KeyError, TypeError):
        for each in read_rollbacks(path):
            first, last = each["samples"]
            found[int(each["spike_step"])] = f"{first:,} to {last:,} (step {each['spike_step']:,})"
    return found


def _until(last: int, guards: Guards) -> dict[str, str | None]:
    """Of the steps up to ``last``."""
    return {
        kind: ", ".join(words for step, words in sorted(done.items()) if step <= last) or None
        for kind, done in guards.items()
    }


def _last(figures: Figures) -> int:
    return max((step for curve in figures.values() for step in curve), default=0)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by their dotted keys; entries of lists of settings by their number, phases.0.until_step."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
            value = {str(number): each for number, each in enumerate(value)}
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Change]:
    return [
        Change(key, first.get(key), second.get(key))
        for key in dict.fromkeys([*first, *second])
        if _there(first.get(key)) != _there(second.get(key))
    ]


def _there(value: Any) -> Any:
    """None also for an empty list or group: what the other run has in it has keys of its own."""
    return None if value in ([], {}) else value
