"""Which rows of a table agree with published figures."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recipes.checks import refuse
from recipes.config.evaluation_schema import TableRow
from recipes.console import shown
from recipes.errors import UserError
from recipes.files import path_errors
from recipes.report.evaluation_result import EvaluationResult
from recipes.report.evaluation_table import MISSING, figure_of, is_share
from recipes.report.markdown import markdown_table

AGREES_WITHIN = 2.0
"""Standard errors of our figure. The published one is taken as it stands."""


@dataclass(frozen=True)
class PublishedRow:
    """One published figure, in percent, and where ours stands."""

    name: str
    task: str
    metric: str
    figure: float


@dataclass(frozen=True)
class Agreement:
    """A published figure beside ours."""

    row: PublishedRow
    ours: float | None
    """None: it was not evaluated."""
    stderr: float | None
    """Of ours; or of the published figure over as many documents, see `alike`."""
    alike: bool = False
    """Whether all documents scored the same, so that they show no spread of their own."""

    @property
    def distance(self) -> float | None:
        """Of ours from the published one, in standard errors."""
        if self.ours is None or self.stderr is None:
            return None
        difference = self.ours - self.row.figure
        if self.stderr:
            return difference / self.stderr
        return None if difference else 0.0


def read_published(path: Path, column: str | None, table: Sequence[TableRow]) -> list[PublishedRow]:
    """One column of a file of published figures.

    The file holds ``columns``, titles, and ``rows``: either {row: figure or list of figures}, the rows being
    named as in the table or as their tasks, or a list of rows as in ``conf/eval``.

    Args:
        column: its title; None: the first.
        table: names, tasks and metrics of the rows that the evaluation prints.

    Raises:
        UserError: it is no such file, or a row is unknown.
    """
    try:
        with path_errors(path):
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        columns, rows = list(content.get("columns") or ["published"]), content["rows"]
        known = {row.name: row for row in table} | {row.task: row for row in reversed(table)}
        if isinstance(rows, list):
            known |= {row["name"]: TableRow(row["name"], row["task"], row["metric"]) for row in rows}
            rows = {row["name"]: row["published"] for row in rows if row.get("published")}
        figures = {
            name: [float(figure) for figure in (given if isinstance(given, list) else [given])]
            for name, given in rows.items()
        }
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"check={path}: it does not hold `rows` of published figures: {reason}") from None
    if column is not None and column not in columns:
        refuse("check_column", column, f"{path} has {', '.join(map(shown, columns))}")
    place = columns.index(column) if column is not None else 0
    for name, given in figures.items():
        if name not in known:
            close = difflib.get_close_matches(str(name), [*known], n=1)
            hint = f"did you mean {close[0]}?" if close else f"the table has {', '.join(known)}"
            if not known:
                hint = "the table has none: write each as {name, task, metric, published}, as in conf/eval"
            raise UserError(f"check={path}: no row is named {shown(name)}; {hint}")
        if len(given) != len(columns):
            raise UserError(f"check={path}: {name} has {len(given)} figures for {len(columns)} columns")
    return [
        PublishedRow(known[name].name, known[name].task, known[name].metric, given[place])
        for name, given in figures.items()
    ]


def agreements(result: EvaluationResult, rows: Sequence[PublishedRow]) -> list[Agreement]:
    """Each published figure beside the model's.

    Raises:
        UserError: a row's task was evaluated, and has no such metric.
    """
    found = []
    for row in rows:
        task = result.tasks.get(row.task)
        figure = figure_of(task, row.metric)
        if task is not None and task.scores and figure is None:
            has = ", ".join(task.scores)
            raise UserError(f"check: {row.name}: metric={row.metric}: {row.task} has {has}; name one of them")
        if task is None or figure is None:
            found.append(Agreement(row, None, None))
        elif figure.stderr == 0:
            found.append(Agreement(row, figure.value, _expected_error(row, task.n), alike=True))
        else:
            found.append(Agreement(row, figure.value, figure.stderr))
    return found


def _expected_error(row: PublishedRow, n: int) -> float:
    """The standard error of a share that is the published one, in percent; of other figures it is unknown, 0.

    Where all of a few documents score the same, their own standard error is 0, which is not how well the
    share is known.
    """
    share = row.figure / 100
    return 100 * math.sqrt(share * (1 - share) / n) if is_share(row.metric) and 0 < share < 1 else 0.0


def agreement_table(found: Sequence[Agreement]) -> str:
    """As Markdown."""
    lines = []
    for entry in found:
        ours = MISSING if entry.ours is None else f"{entry.ours:.2f}"
        if entry.ours is not None and entry.stderr is not None:
            ours += f" ± {entry.stderr:.2f}"
        distance = MISSING if entry.distance is None else f"{entry.distance:+.1f}"
        lines.append([entry.row.name, _verdict(entry), ours, str(entry.row.figure), distance])
    header = ["row", "agrees", "ours", "published", "standard errors"]
    alike = [entry.row.name for entry in found if entry.alike and entry.stderr]
    note = (
        "\nAll documents scored the same, so the standard error is that of the published share over as many: "
        f"{', '.join(alike)}."
    )
    return "\n".join([*markdown_table(header, lines), *([note] if alike else [])]) + "\n"


def _verdict(entry: Agreement) -> str:
    if entry.ours is None:
        return "not evaluated"
    if entry.distance is None:
        return "no standard error"
    return "yes" if abs(entry.distance) <= AGREES_WITHIN else "NO"


def refuse_disagreement(found: Sequence[Agreement], source: Any) -> None:
    """
    Raises:
        UserError: a row does not agree, or there was nothing to compare.
    """
    compared = [entry for entry in found if entry.distance is not None]
    if not compared:
        raise UserError(f"check={source}: none of its rows was evaluated on two documents or more")
    off = [entry for entry in compared if abs(entry.distance or 0.0) > AGREES_WITHIN]
    if off:
        names = ", ".join(f"{entry.row.name} ({entry.distance:+.1f})" for entry in off)
        raise UserError(
            f"check={source}: {len(off)} of {len(compared)} rows differ from the published figures by more "
            f"than {AGREES_WITHIN:g} standard errors: {names}"
        )
