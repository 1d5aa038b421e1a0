"""The names of lm-eval's tasks and their data sets, read from its files, are those of its own index."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind

from recipes.config.evaluation_tables import read_table
from recipes.errors import UserError
from recipes.evaluation.task_files import (
    MINIBENCH_FILES,
    check_task_names,
    data_sets_of,
    reads_only_files,
    task_directories,
)


@functools.cache
def lm_eval_tasks() -> TaskManager:
    return TaskManager()


def test_every_name_is_known() -> None:
    check_task_names([*MINIBENCH_FILES, *lm_eval_tasks().all_tasks])


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 23])
def test_every_data_set_is_known(every: int) -> None:
    entries = lm_eval_tasks().task_index.values()
    configs = {entry.name: entry.cfg for entry in entries if entry.kind.name == "TASK" and entry.cfg}
    names = [name for name, config in configs.items() if config.get("dataset_path")]
    assert len(names) > 10_000
    reading = {name: configs[name] for name in names[::every]}
    expected = {
        (name, config["dataset_path"], config.get("dataset_name")) for name, config in reading.items()
    }
    in_a_file = {(f"med_text_classification_{level}", "csv", None) for level in ("easy", "hard")}
    assert len(expected) > 400
    assert set(data_sets_of(reading)) == expected - in_a_file


def test_groups_are_their_members() -> None:
    subjects = {configuration for _, data_set, configuration in data_sets_of(["mmlu"])}
    assert len(subjects) == 57 and {data_set for _, data_set, _ in data_sets_of(["mmlu"])} == {"cais/mmlu"}
    assert data_sets_of(["boolq", "minibench_en", "boolq"]) == [("boolq", "aps/super_glue", "boolq")]


def all_named(name: str) -> set[str]:
    """A task, group or tag and, by lm-eval's own index, all that is loaded with it."""
    index, waiting, found = lm_eval_tasks().task_index, [name], set[str]()
    while waiting:
        name = waiting.pop()
        if name in found or name not in index:
            continue
        found.add(name)
        entry = index[name]
        waiting += entry.tags if entry.kind is Kind.TAG else _members((entry.cfg or {}).get("task"))
    return found


def _members(members: Any) -> list[str]:
    named = []
    for member in members if isinstance(members, list) else []:
        if isinstance(member, dict):
            named += [member[key] for key in ("task", "group") if isinstance(member.get(key), str)]
            named += _members(member.get("task"))
        else:
            named.append(member)
    return named


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 17])
def test_directories_hold_all_that_is_loaded(every: int) -> None:
    """Of groups and tags whatever they name, however deep and wherever: a tag may come with an include."""
    index = lm_eval_tasks().task_index
    names = [name for name, entry in index.items() if entry.kind in (Kind.GROUP, Kind.TAG)]
    assert len(names) > 1000 and {"mmlu", "chain_of_thought", "mgsm_direct"} <= set(names)
    for name in [*names[::every], "mmlu", "chain_of_thought", "mgsm_direct", "boolq", "squadv2"]:
        directories = task_directories([name])
        files = {index[each].yaml_path for each in all_named(name)} - {None}
        assert all(any(file.is_relative_to(each) for each in directories) for file in files), name


@pytest.mark.parametrize("table", ["param1_table", "indic"])
def test_an_index_of_them_is_lm_evals_own_of_these_tasks(table: str) -> None:
    tasks = [name for name in read_table("eval", table)["tasks"] if name in lm_eval_tasks().task_index]
    directories = task_directories(tasks)
    found = TaskManager(include_path=list(directories), include_defaults=False).task_index
    whole = lm_eval_tasks().task_index
    assert len(found) < len(whole) / 5
    for name in set().union(*map(all_named, tasks)):
        assert found[name] == whole[name]


def test_tasks_that_are_python_classes() -> None:
    assert data_sets_of(["squadv2", "fda"]) == [
        ("squadv2", "lighteval/squad_v2", None),
        ("fda", "hazyresearch/based-fda", "default"),
    ]
    assert data_sets_of(["scrolls_quality"]) == [("scrolls_quality", "tau/scrolls", "quality")]


def test_files_of_one_s_own_are_no_data_sets_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "task: own\ndataset_path: json\ndataset_kwargs: {data_files: {test: questions.jsonl}}\n"
    )
    (tmp_path / "far.yaml").write_text(
        "task: far\ndataset_path: json\ndataset_kwargs: {data_files: https://example.org/x.jsonl}\n"
    )
    (tmp_path / "hub.yaml").write_text("task: boolq\ndataset_path: my/boolq\n")
    path = [str(tmp_path)]
    check_task_names(["own", "far", "arc_easy"], path)
    assert data_sets_of(["own", "far", "boolq"], path) == [("far", "json", None), ("boolq", "my/boolq", None)]
    assert [reads_only_files(name, path) for name in ("own", "far", "boolq", "minibench_en")] == [
        True,
        False,
        False,
        False,
    ]
    with pytest.raises(UserError, match="no task 'own'"):
        check_task_names(["own"])
    with pytest.raises(UserError, match=r"^task_path=nowhere: no such directory"):
        check_task_names(["own"], ["nowhere"])


@pytest.mark.parametrize(
    ("typed", "meant"), [("arc_eazy", "arc_easy"), ("minibench_hin", "minibench_hi"), ("mlmu", "mmlu")]
)
def test_the_task_that_was_meant_is_named(typed: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"^lm-eval has no task '{typed}': did you mean .*{meant}"):
        check_task_names(["arc_easy", typed])


def test_nothing_is_suggested_where_nothing_is_similar() -> None:
    with pytest.raises(UserError, match=r"^lm-eval has no task '\?\?\?'$"):
        check_task_names(["???"])
