"""The tables of conf/eval, as settings that name one mean them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import yaml

from recipes.checks import one_of
from recipes.config.evaluation_schema import EvaluationConfig
from recipes.config.jobs import CONF_DIR, group_options


def read_table(key: str, name: str) -> dict[str, Any]:
    """The settings of a table of conf/eval, which the setting ``key`` names.

    Raises:
        UserError: there is none of that name.
    """
    one_of(key, name, tuple(group_options("eval")))
    table: dict[str, Any] = yaml.safe_load((CONF_DIR / "eval" / f"{name}.yaml").read_text(encoding="utf-8"))
    return table


def with_table(evaluation: EvaluationConfig) -> EvaluationConfig:
    """The settings with those of their table where they say nothing themselves."""
    if evaluation.table is None:
        return replace(evaluation, num_fewshot=evaluation.num_fewshot or 0)
    table = read_table("trainer.evaluation.table", evaluation.table)
    own = [task for task in evaluation.tasks if task not in table["tasks"]]
    return replace(
        evaluation,
        tasks=[*table["tasks"], *own],
        limit=evaluation.limit if evaluation.limit is not None else table["limit"],
        num_fewshot=table["num_fewshot"] if evaluation.num_fewshot is None else evaluation.num_fewshot,
    )
