"""The names of lm-eval's tasks and their data sets, read from its files, are those of its own index."""

from __future__ import annotations

import functools

import pytest
from lm_eval.tasks import TaskManager

from recipes.errors import UserError
from recipes.evaluation.task_files import MINIBENCH_FILES, check_task_names, data_sets_of


@functools.cache
def lm_eval_tasks() -> TaskManager:
    return TaskManager()


def test_every_name_is_known() -> None:
    check_task_names([*MINIBENCH_FILES, *lm_eval_tasks().all_tasks])


def test_every_data_set_is_known() -> None:
    entries = lm_eval_tasks().task_index.values()
    configs = {entry.name: entry.cfg for entry in entries if entry.kind.name == "TASK" and entry.cfg}
    reading = {name: config for name, config in configs.items() if config.get("dataset_path")}
    assert len(reading) > 10_000
    expected = {
        (name, config["dataset_path"], config.get("dataset_name")) for name, config in reading.items()
    }
    assert set(data_sets_of(reading)) == expected


def test_groups_are_their_members() -> None:
    subjects = {configuration for _, data_set, configuration in data_sets_of(["mmlu"])}
    assert len(subjects) == 57 and {data_set for _, data_set, _ in data_sets_of(["mmlu"])} == {"cais/mmlu"}
    assert data_sets_of(["boolq", "minibench_en", "boolq"]) == [("boolq", "aps/super_glue", "boolq")]


@pytest.mark.parametrize(
    ("typed", "meant"), [("arc_eazy", "arc_easy"), ("minibench_hin", "minibench_hi"), ("mlmu", "mmlu")]
)
def test_the_task_that_was_meant_is_named(typed: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"^lm-eval has no task '{typed}': did you mean .*{meant}"):
        check_task_names(["arc_easy", typed])


def test_nothing_is_suggested_where_nothing_is_similar() -> None:
    with pytest.raises(UserError, match=r"^lm-eval has no task '\?\?\?'$"):
        check_task_names(["???"])
