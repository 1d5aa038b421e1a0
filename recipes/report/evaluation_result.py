"""What an evaluation found, and its file."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.console import shown
from recipes.errors import UserError
from recipes.files import atomic_write, make_directory

FORMAT = 1


@dataclass(frozen=True)
class Score:
    """One metric of one task, as lm-eval reports it (a share between 0 and 1 for accuracies)."""

    value: float
    stderr: float | None = None


@dataclass(frozen=True)
class TaskResult:
    """One task, or one group or tag of tasks."""

    scores: dict[str, Score]
    """By lm-eval's full metric name: "acc,none", "exact_match,remove_whitespace". Empty for a tag, and for a
    group that has no mean of its own."""
    n: int
    """Documents scored."""
    num_fewshot: int | None = None
    version: str | None = None
    """lm-eval's version of the task."""
    constant_answer: float | None = None
    """For multiple choice: the accuracy of always giving the same answer index, the best one."""
    constant_text: float | None = None
    """For minibench: the accuracy of always choosing the same answer text, the best one."""
    tasks: list[str] = field(default_factory=list)
    """For a group or a tag: the tasks it is made of."""
    truncated: int = 0
    """Requests whose beginning was cut off because they were longer than the model's sequences."""
    data: dict[str, Any] = field(default_factory=dict)
    """The task's data set, configuration, revision on the hub, and the sha256 of its files in the mirror."""


@dataclass(frozen=True)
class EvaluationResult:
    """The results of one model."""

    model: str
    requested: list[str]
    """The tasks asked for, in their order; `tasks` holds the members of groups besides."""
    tasks: dict[str, TaskResult]
    settings: dict[str, Any] = field(default_factory=dict)
    """What the numbers depend on: limit, num_fewshot, the mirror's hash, versions."""
    seconds: float = 0.0
    made_with: dict[str, Any] = field(default_factory=dict)
    """Tokenizer, prefix token, device, versions, command: for whoever wants the numbers again."""

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EvaluationResult:
        fields = json.loads(text)
        if fields.pop("format", None) != FORMAT:
            raise ValueError(f"not an evaluation result of format {FORMAT}")
        tasks = {}
        for name, task in fields.pop("tasks").items():
            scores = {metric: Score(**score) for metric, score in task.pop("scores").items()}
            tasks[name] = TaskResult(scores=scores, **task)
        result = cls(tasks=tasks, **fields)
        _check(result)
        return result


def _check(result: EvaluationResult) -> None:
    """Refuses what a table cannot show: the file may come from a stranger.

    Raises:
        ValueError: a value has the wrong type, or a task has no entry of its own.
    """
    texts, numbers = [result.model, *result.requested], []
    for task in result.tasks.values():
        texts += task.tasks
        numbers += [task.n, task.truncated, task.constant_answer or 0.0, task.constant_text or 0.0]
        for score in task.scores.values():
            numbers += [score.value, score.stderr or 0.0]
    for values, kinds in ((texts, str), (numbers, int | float)):
        for value in values:
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise ValueError(f"{shown(value)} in place of {'text' if kinds is str else 'a number'}")
    named = {*result.requested, *(member for task in result.tasks.values() for member in task.tasks)}
    if missing := sorted(named - set(result.tasks)):
        raise ValueError(f"no entry for {', '.join(map(shown, missing[:3]))}")


def write_results(result: EvaluationResult, path: str | Path) -> None:
    """Write a result file, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    make_directory(Path(path).parent)
    with atomic_write(path, "w") as stream:
        stream.write(result.to_json())


def read_results(path: str | Path) -> EvaluationResult:
    """Read what `write_results` wrote.

    Raises:
        UserError: the file cannot be read or is something else.
    """
    try:
        return EvaluationResult.from_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not an evaluation result: {error}") from error
