"""What is wrong with a task file of a user's own: lm-eval keeps silent about much of it."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.errors import UserError

LOOKED_AT = 10
"""Documents: a mistake in a task file is in all of them."""


def fault_in_program(error: BaseException, task_path: Sequence[str]) -> str | None:
    """Where in the Python files beside task files an error was raised, and which; None: not in them."""
    own = [Path(directory).resolve() for directory in task_path]
    if isinstance(error, SyntaxError):
        place = (error.filename or "", error.lineno or 0)
    else:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if any(Path(frame.filename).resolve().is_relative_to(directory) for directory in own)
        ]
        place = (frames[-1].filename, frames[-1].lineno or 0) if frames else ("", 0)
    if not place[0]:
        return None
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{place[0]}:{place[1]}: {type(error).__name__}: {text}"


def check_own_tasks(tasks: Mapping[str, Any], task_path: Sequence[str]) -> None:
    """Refuses a user's task that lm-eval would run without any figure, or with figures that mean nothing.

    Raises:
        UserError: naming the task and what to change.
    """
    for name, task in tasks.items():
        _check_metrics(name, task)
        try:
            _check_answers(name, task)
        except UserError:
            raise
        except Exception as error:
            place = fault_in_program(error, task_path)
            raise UserError(f"task {name}: {place or f'{type(error).__name__}: {error}'}") from error


def _check_metrics(name: str, task: Any) -> None:
    if task.config.process_results is not None:  # Which brings metrics of its own.
        return
    for metric, function in task._metric_fn_list.items():
        if function is None:
            raise UserError(f"task {name}: metric_list: lm-eval has no metric {metric!r}")


def _check_answers(name: str, task: Any) -> None:
    """A right answer that is none of the choices counts as a wrong one, whatever the model says."""
    if task.OUTPUT_TYPE != "multiple_choice" or task.multiple_input or task.config.process_results:
        return
    first = None
    for doc in itertools.islice(task.eval_docs, LOOKED_AT):
        answer, choices = task.doc_to_target(doc), task.doc_to_choice(doc)
        answers = answer if isinstance(answer, list) else [answer]
        if any(one in choices if isinstance(one, str) else one < len(choices) for one in answers):
            return
        first = first or (answer, choices)
    if first is not None:
        raise UserError(
            f"task {name}: doc_to_target gives {first[0]!r}, which is neither one of the choices "
            f"({', '.join(map(str, first[1]))}) nor the index of one"
        )
