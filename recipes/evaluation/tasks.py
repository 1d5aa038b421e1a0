"""The benchmark tasks: lm-eval's stock ones, from a mirror or the hub, and this project's minibench."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.config.evaluation_schema import EvaluationConfig, TextsConfig
from recipes.config.evaluation_tables import with_table
from recipes.counts import counted
from recipes.data.benchmark_mirror import config_entry, in_place_of_hub, read_manifest
from recipes.data.hub import (
    hub_error,
    hub_obstacle,
    is_cached,
    network_errors,
    setting,
    without_bars,
    without_hub,
)
from recipes.data.text.json_lines import as_text, checked_text, read_records, text_of
from recipes.errors import UserError
from recipes.evaluation.own_tasks import check_own_tasks, fault_in_program
from recipes.evaluation.task_data import check_versions
from recipes.evaluation.task_files import (
    MINIBENCH_FILES,
    TASK_YAML,
    TEXT_PREFIX,
    check_task_names,
    data_sets_of,
    fetch_command,
    is_made_here,
    own_task_files,
    reads_only_files,
    task_directories,
    unknown_task,
    versions_of,
)
from recipes.evaluation.texts import text_task

if TYPE_CHECKING:
    from lm_eval.tasks.manager import TaskDict, TaskManager

CHOICES = 4


class OutOfReach(UserError):
    """A task's data is on the hub, which cannot be used.

    Args:
        reason: what the message begins with.
        remedy: how to evaluate all the same.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}{remedy}")
        self.reason = reason


def check_tasks(names: Sequence[str], mirror: Path | None = None, task_path: Sequence[str] = ()) -> None:
    """Refuses tasks that do not exist and, without mirror and network, those whose data is not here.

    It takes seconds, where loading the tasks takes minutes.

    Raises:
        UserError: naming the first such task, and how to fetch what all need.
    """
    check_task_names(names, task_path)
    if mirror is not None:
        _check_mirror(names, mirror, task_path)
    elif reason := out_of_reach(names, task_path):
        raise UserError(f"{reason}{_ask_for_mirror(names, task_path)}")


def out_of_reach(names: Sequence[str], task_path: Sequence[str] = ()) -> str | None:
    """Why the data of a task is neither in this machine's cache nor to be had from the hub, if so."""
    obstacle = _hub_obstacle(names)
    if obstacle is not None:
        for task, data_set, configuration in data_sets_of(names, task_path):
            if not is_cached(data_set, configuration):
                return f"cannot load task {task}: {obstacle}"
    return None


def check_training_tasks(evaluation: EvaluationConfig) -> None:
    """`check_tasks` for the benchmark that a run is measured with during training, if there is one."""
    if evaluation.every_n_steps is None:
        return
    planned = with_table(evaluation)
    for name in planned.tasks:
        if name.startswith(TEXT_PREFIX):
            raise UserError(f"trainer.evaluation.tasks: {name} is no task here; data.valid measures texts")
    check_tasks(planned.tasks, Path(planned.mirror) if planned.mirror else None, planned.task_path)
    if planned.minibench is not None:
        for name in planned.tasks:
            if name in MINIBENCH_FILES:
                read_items(Path(planned.minibench, MINIBENCH_FILES[name]))


def _check_mirror(names: Sequence[str], mirror: Path, task_path: Sequence[str]) -> None:
    held = {entry.rpartition("/")[0] for entry in read_manifest(mirror)}
    reason, to_fetch = "", []
    for name in names:
        for task, data_set, configuration in data_sets_of([name], task_path):
            if config_entry(data_set, configuration) not in held:
                of = f", {configuration}" if configuration else ""
                reason = (
                    reason or f"cannot load task {task} from the mirror {mirror}: it has no {data_set}{of}"
                )
                to_fetch.append(name)
                break
    if to_fetch:
        others = f", and what {counted(len(to_fetch) - 1, 'other')} need" if len(to_fetch) > 1 else ""
        raise UserError(f"{reason}{others}; fetch it with {fetch_command(mirror, to_fetch, task_path)}")
    check_versions({name: versions_of([name], task_path) for name in names}, mirror, task_path)


def _hub_obstacle(names: Sequence[str]) -> str | None:
    """Why stock tasks cannot be read from the hub, if there are any; None if they can."""
    return None if all(map(is_made_here, names)) else hub_obstacle()


def _ask_for_mirror(names: Sequence[str], task_path: Sequence[str]) -> str:
    command = fetch_command("DIR", [name for name in names if not is_made_here(name)], task_path)
    return f"; set mirror=DIR to a copy of the data, which {command} makes where there is network"


def load_tasks(
    names: Sequence[str],
    *,
    minibench: Path | None = None,
    mirror: Path | None = None,
    task_path: Sequence[str] = (),
    texts: TextsConfig | None = None,
    seed: int = 0,
) -> TaskDict:
    """Load tasks by name, ready for `lm_eval.evaluator.evaluate`.

    Args:
        names: names of lm-eval's tasks, groups and tags ("arc_easy", "mmlu", "ai2_arc"), and "minibench_en" /
            "minibench_hi", "bits_per_byte_NAME". A tag is no group, but its members are in `group_map` too.
        minibench: the directory with en.jsonl and hi.jsonl (see `minibench_tasks`).
        mirror: a directory made by `tools.prefetch_benchmarks`; no network is used then. None: the hub.
        task_path: directories of further task files.
        texts: the texts that bits_per_byte_NAME reads.
        seed: of the order of packed texts.

    Raises:
        UserError: a task is unknown, needs a package that is missing, or its data cannot be loaded.
    """
    check_tasks(names, mirror, task_path)
    made = [
        _text_task(name, texts or TextsConfig(), seed)
        if name.startswith(TEXT_PREFIX)
        else _minibench(name, minibench)
        for name in names
        if is_made_here(name)
    ]
    stock = [name for name in names if not is_made_here(name)]
    loaded: TaskDict = {"tasks": {}, "groups": {}, "group_map": {}}
    with quiet_lm_eval():
        if made:
            from lm_eval.tasks import TaskManager

            _merge(loaded, TaskManager(include_defaults=False).load(made))
        if stock:
            _merge(loaded, _load_stock(stock, mirror, task_path))
        own = own_task_files(task_path)
        check_own_tasks({name: task for name, task in loaded["tasks"].items() if name in own}, task_path)
    if mirror is not None:
        # Of those too whose files do not tell it.
        versions = {name: {name: str(task.VERSION)} for name, task in loaded["tasks"].items()}
        check_versions(versions, mirror, task_path)
    return loaded


def _text_task(name: str, texts: TextsConfig, seed: int) -> dict[str, Any]:
    text = name.removeprefix(TEXT_PREFIX)
    if text not in texts.files:
        raise UserError(f"{name} needs a text: set texts.files.{text}")
    return text_task(text, texts.files[text], texts.text_key, seed if texts.packed else None)


def _minibench(name: str, directory: Path | None) -> dict[str, Any]:
    if directory is None:
        raise UserError(f"{name} needs the directory that holds {MINIBENCH_FILES[name]}: set `minibench`")
    return _minibench_task(name, directory / MINIBENCH_FILES[name])


def minibench_tasks(directory: Path) -> list[dict[str, Any]]:
    """lm-eval task configurations for the multiple-choice files en.jsonl and hi.jsonl of a directory.

    One item per line: {"id": ..., "kind": ..., "question": str, "choices": [4 strings], "answer": 0..3}. The
    question is the context as it stands; each choice is scored after one space.

    Raises:
        UserError: a file is missing, or a line is not such an item.
    """
    return [_minibench_task(name, directory / file) for name, file in MINIBENCH_FILES.items()]


def _minibench_task(name: str, path: Path) -> dict[str, Any]:
    return {
        "task": name,
        "custom_dataset": _items_as_dataset(read_items(path)),
        "output_type": "multiple_choice",
        "test_split": "test",
        # Column names, not templates: lm-eval then takes the text as it is, where Jinja would change it.
        "doc_to_text": "question",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": " ",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in ("acc", "acc_norm")
        ],
        "metadata": {"version": 1.0},
    }


def _items_as_dataset(items: list[dict[str, Any]]) -> Callable[..., Any]:
    def build(**metadata: Any) -> Any:
        # In memory, because datasets' cache of local files does not notice when a file changes.
        from datasets import Dataset, DatasetDict

        return DatasetDict({"test": Dataset.from_list(items)})

    return build


def read_items(path: Path) -> list[dict[str, Any]]:
    """The checked items of a multiple-choice file."""
    items = []
    for number, item in read_records(path):
        try:
            items.append(_checked_item(item))
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}") from None
    if not items:
        raise UserError(f"{path} holds no items")
    return items


def _checked_item(item: dict[str, Any]) -> dict[str, Any]:
    question, choices, answer = text_of(item, "question"), item.get("choices"), item.get("answer")
    if not question:
        raise ValueError("`question` is empty")
    if (
        not isinstance(choices, list)
        or len(choices) != CHOICES
        or not all(isinstance(c, str) and c for c in choices)
    ):
        raise ValueError(f"`choices` must be {CHOICES} texts")
    choices = [checked_text(choice, "choices") for choice in choices]
    if type(answer) is not int or not 0 <= answer < CHOICES:
        raise ValueError(
            f"`answer` must be the index of the right choice, 0 to {CHOICES - 1}, not {answer!r}"
        )
    labels = {key: as_text(item.get(key)) for key in ("id", "kind")}
    return {**labels, "question": question, "choices": choices, "answer": answer}


def _load_stock(names: Sequence[str], mirror: Path | None, task_path: Sequence[str]) -> TaskDict:
    # A mirror is the current directory while its tasks load.
    own_path = tuple(Path(directory).absolute() for directory in task_path)
    manager = _task_files(task_directories(names, task_path), own_path)
    for name in names:
        if name not in manager.task_index:
            raise unknown_task(name, manager.all_tasks)
    loaded: TaskDict = {"tasks": {}, "groups": {}, "group_map": {}}
    obstacle = None if mirror else _hub_obstacle(names)
    # Their relative paths are meant from the current directory, not from the mirror.
    own_files = [name for name in names if reads_only_files(name, task_path)]
    others = [name for name in names if name not in own_files]
    for some, place in ((own_files, without_hub()), (others, _place_of_data(mirror, obstacle))):
        with place if some else contextlib.nullcontext():
            for name in some:
                if name in own_files:
                    one = _load_own(manager, name, task_path)
                else:
                    one = _load_one(manager, name, mirror, obstacle, task_path)
                if name not in one["tasks"] and name not in one["groups"]:
                    one["group_map"][name] = list(one["tasks"])
                _merge(loaded, one)
    return loaded


def _place_of_data(mirror: Path | None, obstacle: str | None) -> AbstractContextManager[None]:
    if mirror is not None:
        return in_place_of_hub(mirror)
    return without_hub() if obstacle else without_bars()


@functools.cache  # Hundreds of files may have to be read.
def _task_files(directories: tuple[Path, ...], task_path: tuple[Path, ...]) -> TaskManager:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=[*directories, TASK_YAML, *task_path], include_defaults=False)


def _load(manager: TaskManager, name: str, task_path: Sequence[str]) -> TaskDict:
    from lm_eval.config import task as task_config

    try:
        with setting(task_config, "default_gen_kwargs", _without_limit):
            return manager.load([name])
    except ImportError as error:
        if not error.name:
            raise UserError(f"cannot load task {name}: {_reason(error)}") from error
        package = error.name.partition(".")[0]
        raise UserError(f"task {name} needs the Python package {package}, which is not installed") from error
    except Exception as error:
        if place := fault_in_program(error, task_path):
            raise UserError(f"task {name}: {place}") from error
        raise


def _load_own(manager: TaskManager, name: str, task_path: Sequence[str]) -> TaskDict:
    """A task that reads nothing but files of this machine."""
    try:
        return _load(manager, name, task_path)
    except UserError:
        raise
    except Exception as error:  # lm-eval checks little of a task file: any may come of a mistake in it.
        raise UserError(f"cannot load task {name} from its files: {_reason(error)}") from error


def _load_one(
    manager: TaskManager, name: str, mirror: Path | None, obstacle: str | None, task_path: Sequence[str]
) -> TaskDict:
    try:
        return _load(manager, name, task_path)
    # What datasets raises for missing data: ConnectionError, FileNotFoundError, ValueError
    # (configuration), KeyError (split). A hub that answers may still fail later.
    except (*network_errors(), ValueError, KeyError) as error:
        if not obstacle and isinstance(error, hub_error()):
            obstacle = f"the Hugging Face hub fails: {_reason(error)}"
        if obstacle:
            remedy = _ask_for_mirror([name], task_path)
            raise OutOfReach(f"cannot load task {name}: {obstacle}", remedy) from error
        source = f"the mirror {mirror}" if mirror else "the Hugging Face hub"
        remedy = f"; fetch it with {fetch_command(mirror, [name], task_path)}" if mirror else ""
        raise UserError(f"cannot load task {name} from {source}: {_reason(error)}{remedy}") from error
    except (AttributeError, TypeError) as error:
        if file := own_task_files(task_path).get(name):  # Of a key that there is not, and the like.
            raise UserError(f"{file}: {_reason(error)}") from error
        raise


def _without_limit(until: str | list[str] | None) -> dict[str, Any]:
    """lm-eval's settings for a task that names none, but for its limit of 256 new tokens: in a loaded task
    it would look like one that the task asks for, and a short model may have to choose a lower one.
    """
    from lm_eval.defaults import default_gen_kwargs

    settings = default_gen_kwargs(until)
    del settings["max_gen_toks"]
    return settings


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _merge(loaded: TaskDict, more: TaskDict) -> None:
    loaded["tasks"].update(more["tasks"])
    loaded["groups"].update(more["groups"])
    loaded["group_map"].update(more["group_map"])


@contextlib.contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """lm-eval warns of every default that it fills into its own stock tasks."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
