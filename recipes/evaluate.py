"""Evaluation: ``python -m recipes.evaluate gpt_model_file=model.nemo eval=param1_table``; see ``--help``."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from recipes.checkpoint.formats.recognise import check_stored
from recipes.checkpoint.save.held import hold
from recipes.checkpoint.save.manifest import MANIFEST
from recipes.config.hydra_app import run_job
from recipes.config.schema import EvaluateConfig, ParallelConfig
from recipes.config.validate_jobs import validate_evaluate
from recipes.config.world import World, launched_world
from recipes.console import quiet_libraries, say
from recipes.counts import counted
from recipes.errors import UserError
from recipes.evaluation.checkpoint_curve import of_checkpoints, render_curve
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
from recipes.evaluation.task_files import check_task_names, with_text_tasks
from recipes.evaluation.tasks import check_tasks, load_tasks
from recipes.files import check_writable
from recipes.parallel.first_rank import close_process_group, decided_by_first_rank
from recipes.parallel.interfaces import check_interfaces
from recipes.report.evaluation_result import EvaluationResult, read_results, write_results
from recipes.report.evaluation_table import TableSpec, render
from recipes.report.published import (
    PublishedRow,
    agreement_table,
    agreements,
    read_published,
    refuse_disagreement,
)

if TYPE_CHECKING:
    from lm_eval.tasks.manager import TaskDict

    from recipes.evaluation.run import Evaluation

RENDEZVOUS_TIMEOUT_S = 1800.0


@dataclasses.dataclass(frozen=True)
class _Scored:
    """What became of one model."""

    began: bool
    """Whether there was anything to do."""
    results: Path | None
    """The file with its results, if there is one; on the first rank."""


@dataclasses.dataclass(frozen=True)
class _Start:
    """Where an evaluation begins, and where its results go."""

    place: Place
    settings: dict[str, Any]
    journal: Path
    known: dict[str, Answers]
    """The answers of an evaluation that was interrupted."""


def run(config: EvaluateConfig) -> int:
    """Scores the model, or a run's checkpoints, on the tasks, prints the table and writes the results."""
    config = with_text_tasks(config)
    check_task_names(config.tasks, config.task_path)
    validate_evaluate(config)
    quiet_libraries()
    world = launched_world()
    began = _score_checkpoints(config, world) if config.run else _score_model(config, world)
    if not began:
        close_process_group(world)
    return 0


def _score_model(config: EvaluateConfig, world: World) -> bool:
    """Returns whether there was anything to do."""
    check_stored(Path(config.gpt_model_file))
    published = read_published(Path(config.check), config.check_column, config.rows) if config.check else []
    return _score(config, published, world, [], in_curve=False).began


def _score_checkpoints(config: EvaluateConfig, world: World) -> bool:
    """The same, for those of a run's checkpoints that have not been scored yet; shows all in the end."""
    loaded: list[TaskDict] = []
    ones = of_checkpoints(config)
    with contextlib.ExitStack() as stack:
        # A run that goes on deletes old ones, of which the last is scored much later than it was found.
        held = _held(ones, stack) if world.rank == 0 else {}
        scored = []
        for one in ones:
            scored.append(_score(one, [], world, loaded, in_curve=True))
            if one.gpt_model_file in held:
                held[one.gpt_model_file].close()
    began = any(one.began for one in scored)
    if world.rank != 0:
        return began
    results = [read_results(one.results) for one in scored if one.results]
    if config.dry_run:
        tasks = ", ".join(config.tasks)
        print(f"{len(ones) - len(results):,} of {counted(len(ones), 'checkpoint')}, on {tasks}")
        return False
    run = Path(str(config.run))
    if results:
        print(render_curve(run, results, TableSpec(config.rows)), flush=True)
        say(f"as curves: python -m tools.report {run}")
    return began


def _held(ones: list[EvaluateConfig], stack: contextlib.ExitStack) -> dict[str, BinaryIO]:
    """The checkpoints, kept from being deleted; not those that are gone already."""
    held = {}
    for one in ones:
        with contextlib.suppress(UserError):
            held[one.gpt_model_file] = stack.enter_context(hold(Path(one.gpt_model_file)))
    return held


def _score(
    config: EvaluateConfig,
    published: list[PublishedRow],
    world: World,
    loaded: list[TaskDict],
    *,
    in_curve: bool,
) -> _Scored:
    """Scores one model.

    Args:
        loaded: the tasks, as soon as they are loaded; for the next call with the same ones.
        in_curve: prints no table, for it is a line of one.
    """

    def prepare() -> _Start | Path | None:
        start = _prepare(config, published, in_curve)
        if isinstance(start, _Start) and not loaded:
            loaded.append(_load(config))
        return start

    start = decided_by_first_rank(world, RENDEZVOUS_TIMEOUT_S, prepare)
    if not isinstance(start, _Start):
        return _Scored(began=False, results=start)
    # The others find what the first rank has put into the cache.
    if not loaded:
        loaded.append(_load(config))
    evaluation = _evaluate(config, start, loaded[0], world)
    results = None
    if world.rank == 0:
        if not in_curve:  # First, so that hours are not lost if the write fails.
            _print_table(evaluation.result, config)
        results = _write(evaluation, start.place, config)
        remove_journal(start.journal)
        _check(evaluation.result, published, config)
    return _Scored(began=True, results=results)


def _prepare(config: EvaluateConfig, published: list[PublishedRow], in_curve: bool) -> _Start | Path | None:
    """Returns the file where the results are already, or None where there is nothing to do."""
    if in_curve and not Path(config.gpt_model_file, MANIFEST).exists():
        say(f"passed over: {config.gpt_model_file}, which its run has deleted meanwhile")
        return None
    place = find_place(config)
    if place.finished:
        if not in_curve:
            found = read_results(place.path)
            _print_table(found, config)
            say(f"results: {place.path}, evaluated before; repeat=true evaluates again, into another file")
            _check(found, published, config)
        return place.path
    check_writable(place.path)
    check_tasks(config.tasks, Path(config.mirror) if config.mirror else None, config.task_path)
    # Before the model is read, in case its file is replaced meanwhile. Checks the mirror's files.
    settings = settings_of(config)
    if config.dry_run:
        print(f"would evaluate {config.gpt_model_file} on {', '.join(config.tasks)} and write {place.path}")
        return None
    check_interfaces()
    journal = journal_directory(place.path, identity_of(config, settings))
    known = read_journal(journal)
    if known:
        count = sum(map(len, known.values()))
        say(f"goes on where an earlier evaluation stopped: {count:,} answers are kept in {journal}")
    return _Start(place, settings, journal, known)


def _load(config: EvaluateConfig) -> TaskDict:
    """Before torch is imported and the model read, which takes much longer."""
    return load_tasks(
        config.tasks,
        minibench=Path(config.minibench) if config.minibench else None,
        mirror=Path(config.mirror) if config.mirror else None,
        task_path=config.task_path,
        texts=config.texts,
        seed=config.seed,
    )


def _evaluate(config: EvaluateConfig, start: _Start, loaded: TaskDict, world: World) -> Evaluation:
    from recipes.evaluation.ranks import model_ranks
    from recipes.evaluation.run import evaluate_documents
    from recipes.evaluation.work import Work
    from recipes.inference.text_model import load_text_model
    from recipes.parallel.setup import resolve_dtype

    parallel = ParallelConfig(config.tensor_model_parallel_size, config.pipeline_model_parallel_size)
    model = load_text_model(
        config.gpt_model_file,
        precision=config.precision,
        num_threads=config.num_threads,
        parallel=parallel,
        world=world,
        weights=config.weights,
    )
    model.name = model_name(config)
    ranks = model_ranks()
    work = Work(
        ranks,
        f"{model.device.type} {config.precision} {parallel}",
        start.known,
        JournalWriter(start.journal, ranks.rank) if ranks.answers else None,
        rehearses=True,
    )
    evaluation = evaluate_documents(
        model,
        list(config.tasks),
        loaded=loaded,
        mirror=Path(config.mirror) if config.mirror else None,
        texts=config.texts,
        limit=config.limit,
        num_fewshot=config.num_fewshot,
        seed=config.seed,
        max_batch_tokens=config.max_batch_tokens,
        max_logits_bytes=config.max_logits_bytes,
        bootstrap_iters=config.bootstrap_iters,
        work=work,
    )
    made_with = {
        **evaluation.result.made_with,
        "dtype": str(resolve_dtype(config.precision)).removeprefix("torch."),
        "processes": world.size,
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
    }
    result = dataclasses.replace(evaluation.result, settings=start.settings, made_with=made_with)
    return dataclasses.replace(evaluation, result=result)


def _print_table(result: EvaluationResult, config: EvaluateConfig) -> None:
    print(render([result], TableSpec(config.rows, config.columns)), flush=True)


def _write(evaluation: Evaluation, place: Place, config: EvaluateConfig) -> Path:
    """Returns the results' file: another evaluation may have taken the place meanwhile."""
    from recipes.evaluation.files import write_files

    path = free_path(place.path)
    write_results(evaluation.result, path)
    write_files(evaluation, path.with_suffix(""), TableSpec(config.rows, config.columns), config.log_samples)
    say(f"results: {path}")
    say(f"beside them: table, chart and lm-eval's own files in {path.with_suffix('')}")
    return path


def _check(result: EvaluationResult, published: list[PublishedRow], config: EvaluateConfig) -> None:
    if published:
        found = agreements(result, published)
        print(agreement_table(found), flush=True)
        refuse_disagreement(found, config.check)


if __name__ == "__main__":
    run_job("evaluate", run)
