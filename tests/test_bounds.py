"""Numbers that no run can mean are refused in one line, whichever setting they stand in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

import pytest

from recipes.bounds import BY_TYPE, AtMost, check_bounds
from recipes.checks import refuse
from recipes.config.hydra_app import compose
from recipes.config.jobs import SCHEMAS
from recipes.config.meanings import settings_of
from recipes.config.validate import validate_pretrain
from recipes.config.validate_jobs import validate_evaluate, validate_generate
from recipes.errors import UserError
from recipes.plan.dry_run import describe_run
from tests.support.nemo_files import MAIN

# A configuration that has an entry in every list and dictionary, and the checks of its job.
PHASES = "phases=[{until_step: 5, train: {en: {weight: 1}}}, {lr: 0.001, lr_decay_style: WSD}]"
GROUPS = "optim.groups=[{pattern: 'embedding.*', lr: 0.001}]"
SAMPLES = ["trainer.samples.every_n_steps=5", "trainer.samples.prompts=[a]"]
JOBS: dict[str, tuple[list[str], Callable[[Any], Any]]] = {
    "pretrain": (["experiment=quickstart", "dry_run=true", PHASES, GROUPS, *SAMPLES], validate_pretrain),
    "evaluate": (
        [f"gpt_model_file={MAIN / 'model.nemo'}", "tasks=[boolq]", "dry_run=true"],
        validate_evaluate,
    ),
    "generate": ([f"gpt_model_file={MAIN / 'model.nemo'}", "prompts=[a]"], validate_generate),
}
WHOLE = (10**308, 10**30, -(10**30), -1)
BROKEN = (1e308, 1e30, -1e30, -1.0, float("nan"), float("inf"), float("-inf"))
# As many as the model file says.
MAY_BE_MINUS_ONE = ("tensor_model_parallel_size", "pipeline_model_parallel_size")


@cache
def base(job: str) -> Any:
    return compose(job, JOBS[job][0])


def numbers(job: str) -> Iterator[tuple[str, str]]:
    """Keys of a job's settings that hold numbers, and their types in words."""
    for setting in settings_of(SCHEMAS[job]).values():
        # The published figures of a table are printed, and nothing else.
        if "number" in setting.kind and not setting.key.startswith("rows."):
            yield setting.key, setting.kind


def with_value(config: Any, path: list[str], value: Any) -> Any:
    """A copy with another value, in the last entry of lists."""
    if not path:
        return value
    first, rest = path[0], path[1:]
    if isinstance(config, list):
        return [*config[:-1], with_value(config[-1], rest, value)] if rest else config
    if isinstance(config, dict):
        return config | {"en": with_value(config["en"], rest, value)}
    return dataclasses.replace(config, **{first: with_value(getattr(config, first), rest, value)})


def changed(job: str, key: str, kind: str, value: float) -> Any:
    many: Any = value
    if "list of list" in kind:
        many = [[value, value]]
    elif "list of" in kind or " x " in kind:
        many = [value, value]
    config, path = base(job), key.split(".")
    if path[0] == "phases" and (path[2] == "train" or path[2].startswith("until")):
        return dataclasses.replace(
            config, phases=[with_value(config.phases[0], path[2:], many), config.phases[1]]
        )
    return with_value(config, path, many)


def refusal(job: str, config: Any) -> str | None:
    try:
        check_bounds(config)
        JOBS[job][1](config)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("job", JOBS)
def test_no_absurd_number_is_taken(job: str) -> None:
    """Each is refused in one line that names the setting."""
    assert refusal(job, base(job)) is None
    taken, unclear = [], []
    for key, kind in numbers(job):
        for value in WHOLE if "whole" in kind else BROKEN:
            refused = refusal(job, changed(job, key, kind, value))
            if refused is None and not (value == -1 and key in MAY_BE_MINUS_ONE):
                taken.append(f"{key}={value}")
            elif refused is not None and (
                key.rpartition(".")[2] not in refused or "\n" in refused or len(refused) > 400
            ):
                unclear.append(
                    f"{key}={value:g}: {refused}" if isinstance(value, float) else f"{key}: {refused}"
                )
    assert not taken and not unclear


def test_a_plan_of_the_largest_numbers_is_refused_or_described() -> None:
    """A bound that lets an overflow through is none."""
    for key, kind in numbers("pretrain"):
        for most in (10**6, 10**7, 10**9, 10**10, 10**15):
            config = changed("pretrain", key, kind, most if "whole" in kind else float(most))
            if refusal("pretrain", config) is None:
                describe_run(config, validate_pretrain(config))


@dataclass
class Entry:
    share: float = 0.5


@dataclass
class Schema:
    steps: int = 1
    few: Annotated[int, AtMost(3)] | None = None
    entries: list[Entry] = field(default_factory=list)
    named: dict[str, Entry] = field(default_factory=dict)
    ranges: list[list[Annotated[int, AtMost(5)]]] = field(default_factory=list)
    anything: Any = None
    title: str = ""
    on: bool = True


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Schema(steps=10**9 + 1), "steps=1,000,000,001: must be at most 1,000,000,000"),
        (Schema(steps=10**308), "steps=1.000e+308: must be at most 1,000,000,000"),
        (Schema(few=4), "few=4: must be at most 3"),
        (Schema(entries=[Entry(), Entry(float("nan"))]), "entries[1].share=nan: is not a number; give one"),
        (Schema(named={"a": Entry(float("inf"))}), "named.a.share=inf: must be at most 1,000,000,000"),
        (Schema(ranges=[[1, 5], [6]]), "ranges[1][0]=6: must be at most 5"),
        (Schema(anything={"a": [1, 1e10]}), "anything.a[1]=10000000000.0: must be at most 1,000,000,000"),
    ],
)
def test_it_is_found_wherever_it_stands(config: Schema, message: str) -> None:
    with pytest.raises(UserError) as refused:
        check_bounds(config)
    assert str(refused.value) == message


def test_what_is_within_its_bound_is_taken() -> None:
    check_bounds(Schema(BY_TYPE.most, 3, [Entry(-1e30)], {"a": Entry()}, [[5]], "1e308", "nan"))


def test_a_message_stays_short() -> None:
    with pytest.raises(UserError, match=r"^a=-1\.235e\+299: no$"):
        refuse("a", -int("1235" + "0" * 296), "no")
