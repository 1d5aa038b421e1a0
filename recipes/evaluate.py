"""Evaluation: ``python -m recipes.evaluate gpt_model_file=model.nemo eval=param1_table``; see ``--help``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from recipes.checkpoint.formats.recognise import check_stored
from recipes.config.hydra_app import run_job
from recipes.config.schema import EvaluateConfig
from recipes.config.validate_jobs import validate_evaluate
from recipes.console import quiet_libraries, say
from recipes.evaluation.kept_results import Place, find_place, free_path, model_name, settings_of
from recipes.evaluation.task_files import check_task_names
from recipes.evaluation.tasks import check_tasks, load_tasks
from recipes.files import check_writable
from recipes.report.evaluation_result import EvaluationResult, read_results, write_results
from recipes.report.evaluation_table import TableSpec, render


def run(config: EvaluateConfig) -> int:
    """Scores the model on the tasks, prints the table and writes the results."""
    check_task_names(config.tasks)
    validate_evaluate(config)
    check_stored(Path(config.gpt_model_file))
    place = find_place(config)
    if place.finished:
        _print_table(read_results(place.path), config)
        say(f"results: {place.path}, evaluated before; repeat=true evaluates again, into another file")
        return 0
    check_writable(place.path)
    check_tasks(config.tasks, Path(config.mirror) if config.mirror else None)
    if config.dry_run:
        print(f"would evaluate {config.gpt_model_file} on {', '.join(config.tasks)} and write {place.path}")
        return 0
    _print_table(result := _evaluate(config), config)  # First, so that hours are not lost if the write fails.
    _write(result, place)
    return 0


def _evaluate(config: EvaluateConfig) -> EvaluationResult:
    quiet_libraries()
    minibench = Path(config.minibench) if config.minibench else None
    mirror = Path(config.mirror) if config.mirror else None
    settings = settings_of(config)  # Before the model is read, in case its file is replaced meanwhile.
    # Before torch is imported and the model read, which takes much longer.
    loaded = load_tasks(config.tasks, minibench=minibench, mirror=mirror)
    from recipes.evaluation.run import evaluate
    from recipes.inference.text_model import load_text_model

    model = load_text_model(config.gpt_model_file, precision=config.precision, num_threads=config.num_threads)
    model.name = model_name(config)
    result = evaluate(
        model,
        list(config.tasks),
        loaded=loaded,
        minibench=minibench,
        mirror=mirror,
        limit=config.limit,
        num_fewshot=config.num_fewshot,
        max_batch_tokens=config.max_batch_tokens,
        max_logits_bytes=config.max_logits_bytes,
        bootstrap_iters=config.bootstrap_iters,
    )
    return dataclasses.replace(result, settings=settings)


def _print_table(result: EvaluationResult, config: EvaluateConfig) -> None:
    print(render([result], TableSpec(config.rows, config.columns)), flush=True)


def _write(result: EvaluationResult, place: Place) -> None:
    """Another evaluation may have taken the place meanwhile."""
    path = free_path(place.path)
    write_results(result, path)
    say(f"results: {path}")


if __name__ == "__main__":
    run_job("evaluate", run)
