"""Evaluation results as a table: of figures, and as Markdown that also reads well as plain text."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from recipes.config.schema import TableRow
from recipes.errors import UserError
from recipes.report.evaluation_result import EvaluationResult, TaskResult

MISSING = "-"


@dataclass(frozen=True)
class TableSpec:
    """A published table: its rows, and the titles of the published figures."""

    rows: list[TableRow]
    columns: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ResultTable:
    """Cells as they are shown; the first two columns are words, the others figures."""

    header: list[str]
    lines: list[list[str]]
    notes: list[str]


def render(
    results: Sequence[EvaluationResult], spec: TableSpec | None = None, labels: Sequence[str] | None = None
) -> str:
    """The table of `tabulate` as Markdown, its notes below it."""
    table = tabulate(results, spec, labels)
    return "\n".join([*_markdown(table), *[f"\n{note}" for note in table.notes]]) + "\n"


def tabulate(
    results: Sequence[EvaluationResult], spec: TableSpec | None = None, labels: Sequence[str] | None = None
) -> ResultTable:
    """The table of one or more models, or of stages of one model.

    Accuracies are in percent, with their standard errors. With a `spec`, the rows are the published ones,
    with the published figures in further columns; requested tasks without a row there follow with all their
    metrics. Without one, every metric of every requested task has a row. A tag or group without figures of
    its own stands for its members.

    For multiple-choice tasks, "constant answer" is the score of always giving the same answer index,
    "constant text" that of always giving the same answer text.

    Args:
        labels: column titles, instead of the models' names ("before", "after").
    """
    titles = list(labels) if labels is not None else [result.model for result in results]
    if len(titles) != len(results):
        raise UserError(f"{len(titles)} labels for {len(results)} results")
    published = spec.rows if spec else []
    columns = spec.columns if spec and spec.rows else []
    spec = TableSpec([*published, *_every_metric(results, {row.task for row in published})], columns)

    header = ["task", "metric", *titles, *spec.columns, "constant answer", "constant text", "n"]
    lines = []
    notes = []
    for row in spec.rows:
        lines.append(_line(row, results, spec))
        if row.complement:
            lines.append(_complement_line(row, results, spec))
        if row.note:
            notes.append(f"{row.name}: {row.note}")
    return ResultTable(*_without_empty_columns(header, lines), notes)


def tables_by_tasks(results: Sequence[EvaluationResult], labels: Sequence[str]) -> list[ResultTable]:
    """A table for each set of tasks that was asked for, with a column for each of its results."""
    columns: dict[frozenset[str], list[tuple[EvaluationResult, str]]] = {}
    for result, label in zip(results, labels, strict=True):
        columns.setdefault(frozenset(result.requested), []).append((result, label))
    return [
        tabulate([result for result, _ in some], labels=[label for _, label in some])
        for some in columns.values()
    ]


def _every_metric(results: Sequence[EvaluationResult], without: Set[str]) -> list[TableRow]:
    """A row per metric of each requested task, in the order asked for, but not for the tasks `without`."""
    rows: dict[tuple[str, str], TableRow] = {}  # keeps the first of each
    for result in results:
        for task in _with_figures(result):
            if task not in without:
                for metric in result.tasks[task].scores:
                    rows.setdefault((task, metric), TableRow(task, task, metric))
    return list(rows.values())


def _with_figures(result: EvaluationResult) -> list[str]:
    """The requested tasks; in place of a tag or group without figures of its own, its members."""
    return [
        shown
        for task in result.requested
        for shown in ([task] if result.tasks[task].scores else result.tasks[task].tasks)
    ]


def _line(row: TableRow, results: Sequence[EvaluationResult], spec: TableSpec) -> list[str]:
    found = [result.tasks.get(row.task) for result in results]
    figures = [_cell(task, row.metric, _full_mark(found)) for task in found]
    figures += [str(figure) for figure in row.published] or [MISSING] * len(spec.columns)
    # The baselines depend on the data alone, so any model's result has them.
    figures += [_common(found, "constant_answer"), _common(found, "constant_text")]
    sizes = sorted({task.n for task in found if task})
    return [row.name, row.metric.removesuffix(",none"), *figures, "/".join(map(str, sizes)) or MISSING]


def _complement_line(row: TableRow, results: Sequence[EvaluationResult], spec: TableSpec) -> list[str]:
    found = [result.tasks.get(row.task) for result in results]
    figures = [_cell(task, row.metric, _full_mark(found), complement=True) for task in found]
    figures += [f"{100 - figure:.2f}" for figure in row.published] or [MISSING] * len(spec.columns)
    return [row.name, f"1 - {row.metric.removesuffix(',none')}", *figures, MISSING, MISSING, MISSING]


def _cell(task: TaskResult | None, metric: str, full_mark: int, complement: bool = False) -> str:
    if task is None or metric not in task.scores:
        return MISSING
    score = task.scores[metric]
    value = full_mark - score.value if complement else score.value
    scale = 100 / full_mark if _is_share(metric) else 1
    return f"{value * scale:.2f}" + (f" ± {score.stderr * scale:.2f}" if score.stderr is not None else "")


def _is_share(metric: str) -> bool:
    name = metric.partition(",")[0]
    return name.startswith("acc") or name.endswith("_acc") or name in {"exact_match", "f1", "em"}


def _full_mark(found: Sequence[TaskResult | None]) -> int:
    """What a perfect answer scores in a task: 1, or 100 where lm-eval has percent already (squadv2).

    All of its shares in all results count, so that an f1 of 0.8 % is not taken for 80 %.
    """
    shares = ("acc", "exact", "exact_match", "f1", "em")
    values = [
        score.value
        for task in found
        if task
        for metric, score in task.scores.items()
        if _is_share(metric) or metric.partition(",")[0].endswith(shares)
    ]
    return 100 if max(values, default=0) > 1 else 1


def _common(found: Sequence[TaskResult | None], attribute: str) -> str:
    values = {getattr(task, attribute) for task in found if task} - {None}
    return "/".join(f"{100 * value:.2f}" for value in sorted(values)) or MISSING


def _without_empty_columns(header: list[str], lines: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Leave the baseline columns out where no task has a baseline."""
    empty = {i for i in range(len(header)) if all(line[i] == MISSING for line in lines)}
    keep = [i for i, title in enumerate(header) if not (title.startswith("constant ") and i in empty)]
    return [header[i] for i in keep], [[line[i] for i in keep] for line in lines]


def _markdown(table: ResultTable) -> list[str]:
    header, lines = table.header, table.lines
    widths = [max(3, *(len(line[i]) for line in [header, *lines])) for i in range(len(header))]
    texts = 2  # columns, left aligned

    def rendered(cells: list[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells[:texts], widths[:texts], strict=True)]
        padded += [cell.rjust(width) for cell, width in zip(cells[texts:], widths[texts:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if i < texts else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return [rendered(header), rendered(rule), *map(rendered, lines)]
