"""What is written beside the results of an evaluation: for people, for comparisons, for lm-eval's readers."""

from __future__ import annotations

from pathlib import Path

from recipes.evaluation.lm_eval_files import write_lm_eval_files
from recipes.evaluation.run import Evaluation
from recipes.files import atomic_write, make_directory
from recipes.report.document_scores import DocumentScores, scores_of_samples, write_document_scores
from recipes.report.evaluation_chart import evaluation_chart
from recipes.report.evaluation_details import details
from recipes.report.evaluation_table import TableSpec, render


def write_files(evaluation: Evaluation, directory: Path, spec: TableSpec, log_samples: bool) -> None:
    """Writes `table.md`, `chart.svg`, `documents.json` and lm-eval's own files.

    Raises:
        UserError: they cannot be written.
    """
    result, samples = evaluation.result, evaluation.report["samples"]
    make_directory(directory)
    with atomic_write(directory / "table.md", "w") as stream:
        stream.write(f"# {result.model}\n\n{render([result], spec)}\n## How it was made\n\n{details(result)}")
    chart = evaluation_chart(result, spec)
    if chart is not None:
        with atomic_write(directory / "chart.svg", "w") as stream:
            stream.write(chart)
    scores = {task: scores_of_samples(of_task) for task, of_task in samples.items()}
    groups = {name: found.tasks for name, found in result.tasks.items() if found.tasks}
    write_document_scores(DocumentScores(result.model, scores, groups), directory)
    write_lm_eval_files(directory, evaluation.report, result, log_samples=log_samples)
