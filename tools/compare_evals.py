"""Compare two evaluations document by document: ``python -m tools.compare_evals FIRST.json SECOND.json``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.console import printable
from recipes.errors import UserError
from recipes.report.document_scores import DocumentScores, read_document_scores
from recipes.report.evaluation_table import MISSING, is_share
from recipes.report.figures import distinct_labels
from recipes.report.markdown import markdown_table
from recipes.report.paired import PairedDifference, compare

EXAMPLES = """examples:
  python -m tools.compare_evals outputs/a/evaluation/model-boolq.json outputs/b/evaluation/model-boolq.json
  python -m tools.compare_evals outputs/a/evaluation/model-boolq.json lm_eval_output --json

FIRST and SECOND are results of recipes.evaluate, or directories that lm-eval wrote with --log_samples.
Shares are in percent. "difference" is SECOND less FIRST with its standard error, over the documents that both
have scored; a star marks those that chance alone gives in less than 5 of 100 cases: the more rows, the more
stars by chance. "detectable" is the true difference that gets a star in 80 of 100 cases: a smaller one may be
there unseen.
"""


def main() -> None:
    parser = Arguments("tools.compare_evals", "Compare two evaluations document by document.", EXAMPLES)
    parser.add_argument("first", type=Path, metavar="FIRST")
    parser.add_argument("second", type=Path, metavar="SECOND")
    parser.add_argument("--members", action="store_true", help="show the tasks of groups too")
    parser.add_argument("--json", action="store_true", help="print one JSON object, of shares from 0 to 1")
    options = parser.parse_args()
    models = _read([options.first, options.second])
    differences, left_out = compare(*models)
    if not differences:
        reasons = "; ".join(f"{task}: {reason}" for task, reason in left_out) or "they have no task in common"
        raise UserError(f"{options.first} and {options.second}: nothing can be compared: {reasons}")
    if not options.members:
        members = {task for model in models for tasks in model.groups.values() for task in tasks}
        differences = [entry for entry in differences if entry.task not in members]
    if options.json:
        print(_as_json(models, differences, left_out))
    else:
        print(_as_text(models, differences, left_out))


def _read(paths: list[Path]) -> list[DocumentScores]:
    """The models' scores; those of the same name are called by their files."""
    models = dict(zip(paths, map(read_document_scores, paths), strict=True))
    names = distinct_labels(paths, lambda path: models[path].model)
    return [dataclasses.replace(models[path], model=name) for path, name in zip(paths, names, strict=True)]


def _as_json(
    models: list[DocumentScores], differences: list[PairedDifference], left_out: list[tuple[str, str]]
) -> str:
    rows = [
        {
            **dataclasses.asdict(entry),
            "minimal_detectable_effect": entry.detectable,
            "significant": entry.significant,
        }
        for entry in differences
    ]
    return json.dumps(
        {"models": [model.model for model in models], "rows": rows, "left_out": left_out}, indent=2
    )


def _as_text(
    models: list[DocumentScores], differences: list[PairedDifference], left_out: list[tuple[str, str]]
) -> str:
    header = ["task", "metric", *[printable(model.model) for model in models]]
    header += ["difference", "detectable", "better", "worse", "n"]
    lines = markdown_table(header, [_cells(entry) for entry in differences])
    unmatched = [
        f"{entry.task} {entry.metric}: {entry.unmatched:,} documents are only in one of the two"
        for entry in differences
        if entry.unmatched
    ]
    notes = [*unmatched, *(f"{task}: left out, {reason}" for task, reason in left_out)]
    return "\n".join([*lines, *(f"\n{printable(note)}" for note in notes)])


def _cells(entry: PairedDifference) -> list[str]:
    scale = 100 if is_share(entry.metric) else 1
    difference = f"{scale * entry.difference:+.2f}"
    if entry.stderr is not None:
        difference += f" ± {scale * entry.stderr:.2f}" + ("*" if entry.significant else " ")
    return [
        printable(entry.task),
        printable(entry.metric.removesuffix(",none")),
        f"{scale * entry.first:.2f}",
        f"{scale * entry.second:.2f}",
        difference,
        MISSING if entry.detectable is None else f"{scale * entry.detectable:.2f}",
        f"{entry.better:,}",
        f"{entry.worse:,}",
        f"{entry.n:,}",
    ]


if __name__ == "__main__":
    run_tool(main)
