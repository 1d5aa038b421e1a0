"""The names of lm-eval's tasks and the data sets they read, found without lm-eval's own index.

That index takes eight seconds to build. Here the files of its tasks are only searched for names, which takes
a quarter of a second, so that a typing mistake is refused at once.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from recipes.errors import UserError

MINIBENCH_FILES = {"minibench_en": "en.jsonl", "minibench_hi": "hi.jsonl"}
"""This project's own tasks, and the file that each reads."""

# A key at the beginning of a line with its value, and the entries of the list below it.
_NAMES = re.compile(
    rb"""^["']?(task|group|tag)["']?:[ \t]*([^\s#][^\n]*)?((?:\n[ \t]*(?:-[^\n]*)?(?=\n|\Z))*)""",
    re.MULTILINE,
)


def check_task_names(names: Sequence[str]) -> None:
    """Refuses tasks that do not exist.

    Raises:
        UserError: with names that resemble the first such task.
    """
    known = {*MINIBENCH_FILES, *_files_of_names()}
    for name in names:
        if name not in known:
            raise unknown_task(name, known)


def unknown_task(name: str, known: Iterable[str]) -> UserError:
    """What to raise for a task that does not exist, with those that have similar names."""
    close = difflib.get_close_matches(name, known, n=3)
    suggestion = f": did you mean {', '.join(close)}?" if close else ""
    return UserError(f"lm-eval has no task {name!r}{suggestion}")


def data_sets_of(names: Iterable[str]) -> list[tuple[str, str, str | None]]:
    """What tasks read from the hub: (task, data set, its configuration), as far as their files tell.

    They do not tell it for tasks that are Python classes.
    """
    waiting, seen = list(reversed(list(names))), set[Path]()
    found = []
    while waiting:
        for file in _files_of_names().get(waiting.pop(), []):
            if file in seen:
                continue
            seen.add(file)
            task = _read(file)
            members = task.get("task")
            if isinstance(members, list):
                waiting += [member for member in reversed(members) if isinstance(member, str)]
            elif isinstance(task.get("dataset_path"), str):
                found.append((str(members), task["dataset_path"], task.get("dataset_name")))
    return found


@functools.cache
def _files_of_names() -> dict[str, list[Path]]:
    """Every task and group with the file that defines it, every tag with those of its tasks.

    Some of the names are comments and other noise: a name that is missing here does not exist, while one that
    is here may still be refused by lm-eval.
    """
    package = importlib.util.find_spec("lm_eval")
    if package is None or not package.submodule_search_locations:
        raise UserError("evaluation needs the Python package lm_eval, which is not installed")
    defined: dict[str, list[Path]] = {}
    listed: dict[str, list[Path]] = {}
    for directory, _, files in os.walk(Path(package.submodule_search_locations[0]) / "tasks"):
        # Templates, which tasks include and in which some tags stand, have no suffix.
        for path in [Path(directory, file) for file in files if "." not in file or file.endswith(".yaml")]:
            for key, value, entries in _NAMES.findall(path.read_bytes()):
                if key != b"tag" and not value.startswith(b"["):
                    defined[_plain(value)] = [path]
                tags = [
                    *value.strip(b" []\r").split(b","),
                    *(line.strip()[1:] for line in entries.splitlines()),
                ]
                for name in map(_plain, tags):
                    listed.setdefault(name, [])
                    if key == b"tag":
                        listed[name].append(path)
    return {name: files for name, files in {**listed, **defined}.items() if name}


def _plain(value: bytes) -> str:
    """A YAML value without its quotes and a comment behind it."""
    return re.sub(r"\s+#.*", "", value.decode(errors="replace")).strip(" \t\r\"'")


def _read(file: Path) -> dict[str, Any]:
    """A task's file over those that it includes."""
    own: dict[str, Any] = yaml.load(file.read_bytes(), _TaskLoader)
    includes = own.get("include") or []
    for include in includes if isinstance(includes, list) else [includes]:
        own = {**_read(file.parent / include), **own}
    return own


class _TaskLoader(yaml.SafeLoader):
    """Reads plain data; functions, which lm-eval would import, become None."""


_TaskLoader.add_multi_constructor("!", lambda loader, suffix, node: None)
