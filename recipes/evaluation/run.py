"""Evaluate a model on benchmark tasks."""

from __future__ import annotations

import math
import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from recipes.code_version import versions
from recipes.config.evaluation_schema import TextsConfig
from recipes.config.world import launched_world
from recipes.console import Progress
from recipes.counts import counted
from recipes.data.benchmark_mirror import read_manifest, verified_hash
from recipes.data.hub import setting
from recipes.errors import UserError
from recipes.evaluation.kept_results import FIGURES_DEPEND_ON
from recipes.evaluation.task_data import data_of
from recipes.evaluation.task_files import MINIBENCH_FILES, TEXT_PREFIX
from recipes.evaluation.tasks import load_tasks
from recipes.evaluation.texts import Reading
from recipes.report.evaluation_result import EvaluationResult, Score, TaskResult

if TYPE_CHECKING:
    from lm_eval.tasks.manager import TaskDict

    from recipes.evaluation.lm import ParamLM
    from recipes.evaluation.work import Work
    from recipes.inference.text_generator import TextGenerator

T = TypeVar("T")

MADE_WITH = ("param-recipes", "lm_eval", "datasets", "torch", "transformers", "tokenizers", "megatron-core")
DEFAULT_SEED = 1234  # lm-eval's own


@dataclass(frozen=True)
class Evaluation:
    """All that an evaluation found."""

    result: EvaluationResult
    report: dict[str, Any]
    """lm-eval's own, with every document's answers under "samples"."""


def evaluate(model: TextGenerator, tasks: list[str], **options: Any) -> EvaluationResult:
    """The result of :func:`evaluate_documents`, which explains the arguments."""
    return evaluate_documents(model, tasks, **options).result


def evaluate_documents(
    model: TextGenerator,
    tasks: list[str],
    *,
    loaded: TaskDict | None = None,
    minibench: Path | None = None,
    mirror: Path | None = None,
    texts: TextsConfig | None = None,
    limit: int | None = None,
    num_fewshot: int = 0,
    seed: int = DEFAULT_SEED,
    max_batch_tokens: int = 16384,
    max_logits_bytes: int = 2**29,
    bootstrap_iters: int = 1000,
    work: Work | None = None,
) -> Evaluation:
    """Run tasks on a model.

    Args:
        model: the model; under tensor or pipeline parallelism every rank makes this call and has the result.
        tasks: names of stock lm-eval tasks, groups or tags, and minibench_en / minibench_hi.
        loaded: the same tasks, if `load_tasks` has loaded them already.
        minibench: the directory of en.jsonl and hi.jsonl.
        mirror: a benchmark mirror to read instead of the hub (compute nodes without network).
        texts: how the tasks that are named bits_per_byte_... read their texts; their files go to
            `load_tasks`.
        limit: use the first documents of each task only; for trying things out.
        num_fewshot: solved examples before each question; tasks that fix it to 0 keep 0.
        seed: decides which examples are shown.
        max_batch_tokens: the most tokens in one forward pass, padding included.
        max_logits_bytes: the most bytes of its scores over the vocabulary.
        bootstrap_iters: resamplings for standard errors that have no formula; 0 for no standard errors at
            all.
        work: shares the work among processes and keeps what is done; None: this process does it all.

    Raises:
        UserError: an unknown task, data that cannot be loaded, or a task this model cannot run.
    """
    from lm_eval import api, evaluator

    from recipes.evaluation.lm import ParamLM

    if not tasks:
        raise UserError("no tasks to evaluate")
    start, started = time.monotonic(), datetime.now(UTC)
    loaded = loaded or load_tasks(tasks, minibench=minibench, mirror=mirror)
    set_fewshot(loaded, num_fewshot, seed)
    # `evaluate`, not `simple_evaluate`: the latter hides the results from all but the first local rank.
    reading = _reading(texts or TextsConfig(), model.max_sequence_length)
    readings = {name: reading for name in loaded["tasks"] if name.startswith(TEXT_PREFIX)}
    lm = ParamLM(model, max_batch_tokens, max_logits_bytes, work, readings)
    for task in loaded["tasks"].values():
        if task.OUTPUT_TYPE == "generate_until":
            lm.check_generation(task.task_name, task.config.generation_kwargs)
    with setting(api.task, "tqdm", _preparing), setting(api.model, "tqdm", _preparing):
        report: Any = evaluator.evaluate(
            lm, loaded, limit=limit, bootstrap_iters=bootstrap_iters, log_samples=True
        )
    results = _task_results(loaded, report, limit, mirror)
    result = EvaluationResult(
        model=model.name,
        requested=list(tasks),
        tasks={
            name: replace(found, truncated=sum(lm.truncated[task] for task in found.tasks or [name]))
            for name, found in results.items()
        },
        settings={
            "limit": limit,
            "num_fewshot": num_fewshot,
            "seed": seed,
            "bootstrap_iters": bootstrap_iters,
            "mirror_sha256": verified_hash(mirror) if mirror else None,
            "versions": versions(FIGURES_DEPEND_ON),
        },
        seconds=round(time.monotonic() - start, 1),
        made_with=_made_with(lm, started),
    )
    return Evaluation(result, report)


def _made_with(lm: ParamLM, started: datetime) -> dict[str, Any]:
    import torch

    model = lm.model
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else platform.machine()
    return {
        "started": started.isoformat(timespec="seconds"),
        "tokenizer": {
            "kind": type(model.tokenizer).__name__,
            "sha256": model.tokenizer.sha256,
            "vocab_size": model.vocab_size,
        },
        # What stands before a text that is scored as a whole, and before continuations without a context.
        "prefix_token": {
            "id": lm.prefix_token_id,
            "text": model.tokenizer.id_to_piece(lm.prefix_token_id),
        },
        # What stands before every context too, as before the documents in training.
        "document_start_id": model.document_start_id,
        "eot_token_id": lm.eot_token_id,
        "max_length": lm.max_length,
        "device": f"{model.device.type} ({device})",
        "versions": {"python": platform.python_version(), **versions(MADE_WITH)},
    }


def _preparing(items: Sequence[T], **_: Any) -> Iterator[T]:
    """In place of lm-eval's own progress, which every rank shows for every task."""
    first = launched_world().rank == 0
    with Progress(len(items), "document", label="preparing the questions", enabled=first) as progress:
        for item in items:
            yield item
            progress.add(1)


def _reading(texts: TextsConfig, max_length: int) -> Reading:
    """
    Raises:
        UserError: the model cannot read so much at once.
    """
    window = texts.window or max_length
    stride = texts.stride or window
    if window > max_length:
        raise UserError(f"texts.window={window:,}: the model reads {max_length:,} tokens at once")
    if stride > window:
        raise UserError(f"texts.stride={stride:,} would leave tokens out: at most the window, {window:,}")
    return Reading(window, stride, texts.packed)


def set_fewshot(loaded: TaskDict, num_fewshot: int, seed: int = DEFAULT_SEED) -> None:
    """Has every task show so many examples, of which none is the question that is asked.

    Raises:
        UserError: a task has fewer.
    """
    for name, task in loaded["tasks"].items():
        # A task that says 0 carries its examples in its prompt (TruthfulQA's six) or must not have any.
        if task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=num_fewshot)
            if num_fewshot:
                _check_examples(name, task, num_fewshot)
        task.set_fewshot_seed(seed=seed)


def _check_examples(name: str, task: Any, num_fewshot: int) -> None:
    examples = list(task.sampler.fewshot_docs())
    available = len(examples)
    if _asks_its_examples(task):
        # lm-eval leaves the asked document out if it believes examples to be from the test split. Without a
        # test split, or where the task names none for examples, it does not see that they are the same.
        task.fewshot_cfg.split = task.config.test_split
        # A document may stand there several times: all of it is left out.
        available -= Counter(repr(example) for example in examples).most_common(1)[0][1] if examples else 0
    elif task.fewshot_cfg.split == task.config.test_split:  # Neither is named.
        available -= 1  # lm-eval draws one more, in case the asked document is among them.
    if num_fewshot > available:
        raise UserError(
            f"num_fewshot={num_fewshot}: {name} has {counted(available, 'document')} to show as examples; "
            "ask for as many, or leave the task out"
        )


def _asks_its_examples(task: Any) -> bool:
    """Whether the examples come from the split that is asked."""
    config = task.config
    if task.fewshot_cfg.split is None and config.fewshot_config and task.fewshot_cfg.samples is not None:
        return False  # Written out in the task.
    # lm-eval's own order of splits, ConfigurableTask.fewshot_docs and eval_docs.
    examples = task.fewshot_cfg.split or config.training_split or config.validation_split or config.test_split
    return bool(examples == (config.test_split or config.validation_split))


def _task_results(
    loaded: TaskDict, report: dict[str, Any], limit: int | None, mirror: Path | None
) -> dict[str, TaskResult]:
    manifest = read_manifest(mirror) if mirror else {}
    docs = {
        name: [doc for _, doc in task.doc_iterator(limit=limit)] for name, task in loaded["tasks"].items()
    }
    golds = {name: _gold_indices(task, docs[name]) for name, task in loaded["tasks"].items()}
    results = {}
    for name in loaded["tasks"]:
        texts = [doc["choices"][doc["answer"]] for doc in docs[name]] if name in MINIBENCH_FILES else []
        results[name] = TaskResult(
            scores=scores_of(report["results"][name]),
            n=len(docs[name]),
            num_fewshot=report["n-shot"].get(name),
            version=str(report["versions"].get(name)),
            constant_answer=_most_frequent_share(golds[name]),
            constant_text=_most_frequent_share(texts),
            data=data_of(loaded["tasks"][name], manifest),
        )
    for name, group in loaded["groups"].items():
        members = [task.task_name for task in group.get_all_tasks()]
        n = sum(len(docs[member]) for member in members)
        pooled = [gold for member in members for gold in golds[member]]
        results[name] = TaskResult(
            scores=scores_of(report["results"][name]),
            n=n,
            num_fewshot=report["n-shot"].get(name),
            version=str(report["versions"].get(name)),
            constant_answer=_most_frequent_share(pooled) if len(pooled) == n else None,
            tasks=members,
        )
    for name, members in loaded["group_map"].items():
        if name not in loaded["groups"]:  # a tag, for which lm-eval reports nothing
            results[name] = TaskResult(scores={}, n=sum(len(docs[task]) for task in members), tasks=members)
    return results


def _gold_indices(task: Any, docs: list[Any]) -> list[int]:
    """Each document's right choice, as an index; empty for tasks where no index is to be guessed."""
    if task.OUTPUT_TYPE != "multiple_choice" or task.multiple_input:
        return []
    if isinstance(task.config.doc_to_target, int):  # TruthfulQA: the right answer is first by convention
        return []
    golds = []
    for doc in docs:
        gold = task.doc_to_target(doc)
        choices = task.doc_to_choice(doc)
        if isinstance(gold, str) and gold in choices:
            gold = choices.index(gold)
        if not isinstance(gold, int):
            return []
        golds.append(gold)
    return golds


def _most_frequent_share(values: Iterable[Any]) -> float | None:
    counts = Counter(values)
    return counts.most_common(1)[0][1] / counts.total() if counts else None


def scores_of(reported: dict[str, Any]) -> dict[str, Score]:
    """The metrics of {"acc,none": 0.5, "acc_stderr,none": 0.1 or "N/A", "alias": ..., ...}."""
    scores = {}
    for key, value in reported.items():
        metric, comma, filtered_by = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            stderr = reported.get(f"{metric}_stderr,{filtered_by}")
            scores[key] = Score(float(value), _number(stderr))
    return scores


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
