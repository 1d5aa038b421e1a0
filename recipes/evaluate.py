"""Evaluation: ``python -m recipes.evaluate gpt_model_file=model.nemo eval=param1_table``; see ``--help``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.checkpoint.formats.recognise import check_stored
from recipes.config.hydra_app import run_job
from recipes.config.schema import EvaluateConfig, ParallelConfig
from recipes.config.validate_jobs import validate_evaluate
from recipes.config.world import World, launched_world
from recipes.console import quiet_libraries, say
from recipes.evaluation.journal import (
    Answers,
    JournalWriter,
    journal_directory,
    read_journal,
    remove_journal,
)
from recipes.evaluation.kept_results import (
    Place,
    find_place,
    free_path,
    identity_of,
    model_name,
    settings_of,
)
from recipes.evaluation.task_files import check_task_names
from recipes.evaluation.tasks import check_tasks, load_tasks
from recipes.files import check_writable
from recipes.parallel.first_rank import close_process_group, decided_by_first_rank
from recipes.report.evaluation_result import EvaluationResult, read_results, write_results
from recipes.report.evaluation_table import TableSpec, render

if TYPE_CHECKING:
    from lm_eval.tasks.manager import TaskDict

RENDEZVOUS_TIMEOUT_S = 1800.0


@dataclasses.dataclass(frozen=True)
class _Start:
    """Where an evaluation begins, and where its results go."""

    place: Place
    settings: dict[str, Any]
    journal: Path
    known: dict[str, Answers]
    """The answers of an evaluation that was interrupted."""


def run(config: EvaluateConfig) -> int:
    """Scores the model on the tasks, prints the table and writes the results."""
    check_task_names(config.tasks)
    validate_evaluate(config)
    check_stored(Path(config.gpt_model_file))
    quiet_libraries()
    world = launched_world()
    loaded: list[TaskDict] = []

    def prepare() -> _Start | None:
        start = _prepare(config)
        if start is not None:
            loaded.append(_load(config))
        return start

    start = decided_by_first_rank(world, RENDEZVOUS_TIMEOUT_S, prepare)
    if start is None:
        close_process_group(world)
        return 0
    # The others find what the first rank has put into the cache.
    tasks = loaded[0] if loaded else _load(config)
    result = dataclasses.replace(_evaluate(config, start, tasks, world), settings=start.settings)
    if world.rank == 0:
        _print_table(result, config)  # First, so that hours are not lost if the write fails.
        _write(result, start.place)
        remove_journal(start.journal)
    return 0


def _prepare(config: EvaluateConfig) -> _Start | None:
    """None: there is nothing to do."""
    place = find_place(config)
    if place.finished:
        _print_table(read_results(place.path), config)
        say(f"results: {place.path}, evaluated before; repeat=true evaluates again, into another file")
        return None
    check_writable(place.path)
    check_tasks(config.tasks, Path(config.mirror) if config.mirror else None)
    if config.dry_run:
        print(f"would evaluate {config.gpt_model_file} on {', '.join(config.tasks)} and write {place.path}")
        return None
    settings = settings_of(config)  # Before the model is read, in case its file is replaced meanwhile.
    journal = journal_directory(place.path, identity_of(config, settings))
    known = read_journal(journal)
    if known:
        count = sum(map(len, known.values()))
        say(f"goes on where an earlier evaluation stopped: {count:,} answers are kept in {journal}")
    return _Start(place, settings, journal, known)


def _load(config: EvaluateConfig) -> TaskDict:
    """Before torch is imported and the model read, which takes much longer."""
    minibench = Path(config.minibench) if config.minibench else None
    return load_tasks(
        config.tasks, minibench=minibench, mirror=Path(config.mirror) if config.mirror else None
    )


def _evaluate(config: EvaluateConfig, start: _Start, loaded: TaskDict, world: World) -> EvaluationResult:
    from recipes.evaluation.ranks import model_ranks
    from recipes.evaluation.run import evaluate
    from recipes.evaluation.work import Work
    from recipes.inference.text_model import load_text_model

    parallel = ParallelConfig(config.tensor_model_parallel_size, config.pipeline_model_parallel_size)
    model = load_text_model(
        config.gpt_model_file,
        precision=config.precision,
        num_threads=config.num_threads,
        parallel=parallel,
        world=world,
    )
    model.name = model_name(config)
    ranks = model_ranks()
    work = Work(
        ranks,
        f"{model.device.type} {config.precision} {parallel}",
        start.known,
        JournalWriter(start.journal, ranks.rank) if ranks.answers else None,
    )
    return evaluate(
        model,
        list(config.tasks),
        loaded=loaded,
        mirror=Path(config.mirror) if config.mirror else None,
        limit=config.limit,
        num_fewshot=config.num_fewshot,
        max_batch_tokens=config.max_batch_tokens,
        max_logits_bytes=config.max_logits_bytes,
        bootstrap_iters=config.bootstrap_iters,
        work=work,
    )


def _print_table(result: EvaluationResult, config: EvaluateConfig) -> None:
    print(render([result], TableSpec(config.rows, config.columns)), flush=True)


def _write(result: EvaluationResult, place: Place) -> None:
    """Another evaluation may have taken the place meanwhile."""
    path = free_path(place.path)
    write_results(result, path)
    say(f"results: {path}")


if __name__ == "__main__":
    run_job("evaluate", run)
