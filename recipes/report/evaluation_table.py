"""Evaluation results as a table: of figures, and as Markdown that also reads well as plain text."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from recipes.config.evaluation_schema import TableRow
from recipes.errors import UserError
from recipes.report.evaluation_result import EvaluationResult, Score, TaskResult
from recipes.report.markdown import markdown_table

MISSING = "-"
IN_BRACKETS = (
    "In brackets: by how many of its standard errors the model's figure is higher (+) or lower (-) than the "
    "published one."
)


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
    lines = markdown_table(table.header, table.lines)
    return "\n".join([*lines, *[f"\n{note}" for note in table.notes]]) + "\n"


def tabulate(
    results: Sequence[EvaluationResult], spec: TableSpec | None = None, labels: Sequence[str] | None = None
) -> ResultTable:
    """The table of one or more models, or of stages of one model.

    Accuracies are in percent, with their standard errors. With a `spec`, the rows are the published ones,
    with the published figures in further columns, and the distances of a single result from them; requested
    tasks without a row there follow with all their metrics. Without one, every metric of every requested task
    has a row. A tag or group without figures of its own stands for its members.

    For multiple-choice tasks, "constant answer" is the score of always giving the same answer index,
    "constant text" that of always giving the same answer text.

    Args:
        labels: column titles, instead of the models' names ("before", "after").
    """
    titles = list(labels) if labels is not None else [result.model for result in results]
    if len(titles) != len(results):
        raise UserError(f"{len(titles)} labels for {len(results)} results")
    spec = TableSpec(rows_of(results, spec), spec.columns if spec and spec.rows else [])
    header = ["task", "metric", *titles, *spec.columns, "constant answer", "constant text", "n"]
    lines = []
    notes = []
    for row in spec.rows:
        lines.append(_line(row, results, spec))
        if row.complement:
            lines.append(_complement_line(row, results, spec))
        if row.note:
            notes.append(f"{row.name}: {row.note}")
    notes += [
        _truncations(result) for result in results if any(task.truncated for task in result.tasks.values())
    ]
    if any("(" in cell for line in lines for cell in line[3:]):
        notes.insert(0, IN_BRACKETS)
    return ResultTable(*_without_empty_columns(header, lines), notes)


def _truncations(result: EvaluationResult) -> str:
    """Scores of questions that a model has not read as a whole say less of it."""
    counts = [f"{name} {task.truncated:,}" for name, task in result.tasks.items() if task.truncated]
    if not counts:
        return ""
    return f"{result.model}: requests cut off at the front, being longer than it reads: {', '.join(counts)}."


def rows_of(results: Sequence[EvaluationResult], spec: TableSpec | None = None) -> list[TableRow]:
    """The published rows, then one for each metric of the requested tasks that have no row there."""
    published = spec.rows if spec else []
    return [*published, *_every_metric(results, {row.task for row in published})]


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
        for task in with_figures(result):
            if task not in without:
                for metric in result.tasks[task].scores:
                    rows.setdefault((task, metric), TableRow(task, task, metric))
    return list(rows.values())


def with_figures(result: EvaluationResult) -> list[str]:
    """The requested tasks; in place of a tag or group without figures of its own, its members."""
    return [
        shown
        for task in result.requested
        for shown in ([task] if result.tasks[task].scores else result.tasks[task].tasks)
    ]


def _line(row: TableRow, results: Sequence[EvaluationResult], spec: TableSpec) -> list[str]:
    found = [result.tasks.get(row.task) for result in results]
    figures = [_cell(task, row.metric, found) for task in found]
    figures += _published(row.published, row, found, spec)
    # The baselines depend on the data alone, so any model's result has them.
    figures += [_common(found, "constant_answer"), _common(found, "constant_text")]
    sizes = sorted({task.n for task in found if task})
    return [row.name, row.metric.removesuffix(",none"), *figures, "/".join(map(str, sizes)) or MISSING]


def _complement_line(row: TableRow, results: Sequence[EvaluationResult], spec: TableSpec) -> list[str]:
    found = [result.tasks.get(row.task) for result in results]
    figures = [_cell(task, row.metric, found, complement=True) for task in found]
    figures += _published([round(100 - figure, 2) for figure in row.published], row, found, spec, True)
    return [row.name, f"1 - {row.metric.removesuffix(',none')}", *figures, MISSING, MISSING, MISSING]


def _published(
    figures: Sequence[float],
    row: TableRow,
    found: Sequence[TaskResult | None],
    spec: TableSpec,
    complement: bool = False,
) -> list[str]:
    if not figures:
        return [MISSING] * len(spec.columns)
    shown = [f"{figure:.2f}" if complement else str(figure) for figure in figures]
    ours = figure_of(found[0], row.metric, found, complement) if len(found) == 1 else None
    if ours is None or not ours.stderr:
        return shown
    distances = [(ours.value - figure) / ours.stderr for figure in figures]
    return [f"{text} ({distance:+.1f})" for text, distance in zip(shown, distances, strict=True)]


def _cell(
    task: TaskResult | None, metric: str, found: Sequence[TaskResult | None], complement: bool = False
) -> str:
    figure = figure_of(task, metric, found, complement)
    if figure is None:
        return MISSING
    digits = 4 if metric.startswith("bits_per_byte") else 2
    shown = f"{figure.value:.{digits}f}"
    return shown + (f" ± {figure.stderr:.{digits}f}" if figure.stderr is not None else "")


def figure_of(
    task: TaskResult | None,
    metric: str,
    found: Sequence[TaskResult | None] | None = None,
    complement: bool = False,
) -> Score | None:
    """A task's figure as tables show it, shares in percent; None if there is none.

    Args:
        found: results of the same task beside which it stands.
        complement: of the answers that it counts as wrong.
    """
    if task is None or metric not in task.scores:
        return None
    score, full_mark = task.scores[metric], _full_mark(found or [task])
    value = full_mark - score.value if complement else score.value
    scale = 100 / full_mark if is_share(metric) else 1
    return Score(value * scale, None if score.stderr is None else score.stderr * scale)


def is_share(metric: str) -> bool:
    """Whether a metric, by its full name, is a share of the documents, or as good as that."""
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
        if is_share(metric) or metric.partition(",")[0].endswith(shares)
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
