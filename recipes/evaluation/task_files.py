"""The names of lm-eval's tasks and the data sets they read, found without lm-eval's own index.

That index takes eight seconds to build. Here the files of its tasks are only searched for names, which takes
a quarter of a second, so that a typing mistake is refused at once, and lm-eval's index is built of those
directories alone that hold what was asked for.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import glob
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from recipes.config.schema import EvaluateConfig
from recipes.data.benchmark_mirror import prefetch_command
from recipes.errors import UserError
from recipes.files import path_errors

MINIBENCH_FILES = {"minibench_en": "en.jsonl", "minibench_hi": "hi.jsonl"}
"""This project's own benchmark, and the file that each of its tasks reads."""
TEXT_PREFIX = "bits_per_byte_"
"""Tasks that are made for the texts that a user names begin with it."""
TASK_YAML = Path(__file__).with_name("task_yaml")
"""This project's task files, in lm-eval's format."""
# What datasets reads files of any place with, in place of a data set's name.
_FILE_READERS = ("json", "csv", "parquet", "text", "arrow", "pandas", "xml", "webdataset")

# A key at the beginning of a line with its value, and the entries of the list below it.
_NAMES = re.compile(
    rb"""^["']?(task|group|tag|include)["']?:[ \t]*([^\s#][^\n]*)?((?:\n[ \t]*(?:-[^\n]*)?(?=\n|\Z))*)""",
    re.MULTILINE,
)


def is_made_here(name: str) -> bool:
    """Whether a task has no task file: it is made from files that a user names."""
    return name in MINIBENCH_FILES or name.startswith(TEXT_PREFIX)


def with_text_tasks(config: EvaluateConfig) -> EvaluateConfig:
    """Asks for the tasks of the texts too."""
    asked = [TEXT_PREFIX + name for name in config.texts.files]
    return dataclasses.replace(config, tasks=[*config.tasks, *(n for n in asked if n not in config.tasks)])


def check_task_names(names: Sequence[str], task_path: Sequence[str] = ()) -> None:
    """Refuses tasks that do not exist.

    Args:
        task_path: directories of further task files.

    Raises:
        UserError: with names that resemble the first such task.
    """
    for directory in task_path:
        if not Path(directory).is_dir():
            raise UserError(f"task_path={directory}: no such directory")
    known = {*MINIBENCH_FILES, *_files(task_path)}
    for name in names:
        if name not in known and not is_made_here(name):
            raise unknown_task(name, known)


def unknown_task(name: str, known: Iterable[str]) -> UserError:
    """What to raise for a task that does not exist, with those that have similar names."""
    close = difflib.get_close_matches(name, known, n=3)
    suggestion = f": did you mean {', '.join(close)}?" if close else ""
    return UserError(f"lm-eval has no task {name!r}{suggestion}")


def data_sets_of(names: Iterable[str], task_path: Sequence[str] = ()) -> list[tuple[str, str, str | None]]:
    """What tasks read from the hub: (task, data set, its configuration), as far as their files tell."""
    return [
        (task, data_set, configuration)
        for task, data_set, configuration, local in _sources_of(names, task_path)
        if not local
    ]


def versions_of(names: Iterable[str], task_path: Sequence[str] = ()) -> dict[str, str]:
    """The versions of tasks, as far as their files tell; those of Python classes are found on loading."""
    found = {}
    for file in _task_files_of(names, task_path):
        task = _read(file)
        noted = task.get("metadata")
        if isinstance(noted, dict) and "version" in noted and "class" not in task:
            found[str(task.get("task"))] = str(noted["version"])
    return found


def fetch_command(mirror: Path | str, names: Sequence[str], task_path: Sequence[str]) -> str:
    """What fetches the data of tasks into a mirror, wherever their files are."""
    return prefetch_command(mirror, names, own_task_path(names, task_path))


def own_task_path(names: Iterable[str], task_path: Sequence[str]) -> list[str]:
    """The directories without which these tasks would not be found, or would be others.

    All, if one is needed: groups of one may name tasks of another.
    """
    own = set[str]()
    for directory in task_path:
        own.update(_files_of_names.__wrapped__(Path(directory)))
    return list(task_path) if own.intersection(names) else []


def reads_only_files(name: str, task_path: Sequence[str]) -> bool:
    """Whether a task, or all of a group's, reads files that it names itself, and nothing from the hub."""
    sources = _sources_of([name], task_path)
    return bool(sources) and all(local for *_, local in sources)


def own_task_files(task_path: Sequence[str]) -> dict[str, Path]:
    """The tasks and groups of a user's own, each with the file that defines it; of equals the last counts."""
    found: dict[str, Path] = {}
    for directory in task_path:
        names = _files_of_names.__wrapped__(Path(directory))
        found |= {name: files[0] for name, files in names.items() if files}
    return found


def data_files_of(names: Iterable[str], task_path: Sequence[str]) -> list[Path]:
    """The files of this machine that tasks read: documents that may change while the task file does not."""
    found: set[Path] = set()
    for file in _task_files_of(names, task_path):
        task = _read(file)
        source, kwargs = task.get("dataset_path"), task.get("dataset_kwargs") or {}
        if not isinstance(source, str) or not _is_local(task):
            continue
        directory = Path(kwargs.get("data_dir") or ("" if source in _FILE_READERS else source))
        patterns = list(_texts_in(kwargs.get("data_files")))
        if not patterns and directory != Path():
            patterns = ["**/*"]
        for pattern in patterns:
            # Path.glob takes no absolute pattern.
            paths = glob.glob(str(directory / pattern), recursive=True)  # noqa: PTH207
            found.update(map(Path, paths))
    return sorted(path for path in found if path.is_file())


def _texts_in(value: Any) -> Iterator[str]:
    """All texts in lists and mappings of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts_in(part)


def _is_local(task: dict[str, Any]) -> bool:
    source = task["dataset_path"]
    if source in _FILE_READERS:
        return "://" not in repr(task.get("dataset_kwargs"))
    return Path(source).is_absolute() or Path(source).is_dir()


def _sources_of(names: Iterable[str], task_path: Sequence[str]) -> list[tuple[str, str, str | None, bool]]:
    """Every task with its data set, its configuration, and whether that is files of this machine."""
    found = []
    for file in _task_files_of(names, task_path):
        task = _read(file)
        if isinstance(task.get("class"), str):
            task |= _class_facts(file, task["class"])
        if isinstance(task.get("dataset_path"), str):
            found.append(
                (str(task.get("task")), task["dataset_path"], configuration_of(task), _is_local(task))
            )
    return found


def task_directories(names: Iterable[str], task_path: Sequence[str] = ()) -> tuple[Path, ...]:
    """Directories of lm-eval's own in which these tasks are, the groups among them, and all that is in those.

    The others of its 14,000 task files need not be read. In the order in which, of two tasks with one name,
    lm-eval would take that of the last.
    """
    root = _lm_eval_tasks()
    directories = {file.parent for file, _ in _files_of(names, task_path) if file.is_relative_to(root)}
    outermost = [each for each in directories if directories.isdisjoint(each.parents)]
    return tuple(sorted(outermost, reverse=True))


def _task_files_of(names: Iterable[str], task_path: Sequence[str]) -> Iterator[Path]:
    """The file of every task, those of groups included, each once."""
    return (file for file, members in _files_of(names, task_path) if not isinstance(members, list))


def _files_of(names: Iterable[str], task_path: Sequence[str]) -> Iterator[tuple[Path, Any]]:
    """The file of every task, group and tag, and of all that a group names, each once, with its ``task``."""
    files = _files(task_path)
    waiting, seen = list(reversed(list(names))), set[Path]()
    while waiting:
        for file in files.get(waiting.pop(), []):
            if file in seen:
                continue
            seen.add(file)
            members = _read(file).get("task")
            yield file, members
            waiting += reversed(list(_named(members)))


def _named(members: Any) -> Iterator[str]:
    """What a group names: tasks, groups and tags, also inside of groups that are defined within it."""
    for member in members if isinstance(members, list) else []:
        if isinstance(member, str):
            yield member
        elif isinstance(member, Mapping):
            yield from (name for name in map(member.get, ("task", "group")) if isinstance(name, str))
            yield from _named(member.get("task"))


def configuration_of(task: Mapping[str, Any]) -> str | None:
    """Of a task's data set: its name, or the directory that it is read from."""
    name: str | None = task.get("dataset_name") or (task.get("dataset_kwargs") or {}).get("data_dir")
    return name


def _class_facts(file: Path, place: str) -> dict[str, Any]:
    """What a task that is a Python class reads: constants of the class, or of what it is derived from.

    Args:
        file: the task's file.
        place: its `class`, "task.SQuAD2" for one in task.py beside it.
    """
    module, _, wanted = place.rpartition(".")
    source = file.parent / f"{module.replace('.', '/')}.py"
    if not source.is_file():
        return {}
    classes = {
        node.name: node for node in ast.parse(source.read_bytes()).body if isinstance(node, ast.ClassDef)
    }
    constants: dict[str, Any] = {}
    while wanted in classes:
        node = classes[wanted]
        for line in node.body:
            if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant):
                for target in line.targets:
                    if isinstance(target, ast.Name):
                        constants.setdefault(target.id, line.value.value)
        wanted = next((base.id for base in node.bases if isinstance(base, ast.Name)), "")
    return {"dataset_path": constants.get("DATASET_PATH"), "dataset_name": constants.get("DATASET_NAME")}


def _files(task_path: Sequence[str]) -> dict[str, list[Path]]:
    """The files of every name; those in later directories count."""
    files: dict[str, list[Path]] = {}
    for root in (_lm_eval_tasks(), TASK_YAML):
        files |= _files_of_names(root)
    for directory in task_path:
        files |= _files_of_names.__wrapped__(Path(directory))  # It may have changed since.
    return files


def _lm_eval_tasks() -> Path:
    package = importlib.util.find_spec("lm_eval")
    if package is None or not package.submodule_search_locations:
        raise UserError("evaluation needs the Python package lm_eval, which is not installed")
    return Path(package.submodule_search_locations[0]) / "tasks"


@functools.cache
def _files_of_names(root: Path) -> dict[str, list[Path]]:
    """Every task and group with the file that defines it, every tag with those of its tasks.

    Some of the names are comments and other noise: a name that is missing here does not exist, while one that
    is here may still be refused by lm-eval.
    """
    defined: dict[str, list[Path]] = {}
    listed: dict[str, list[Path]] = {}
    including: dict[str, list[Path]] = {}
    for directory, _, files in os.walk(root):
        # Templates, which tasks include and in which some tags stand, have no suffix.
        for path in [Path(directory, file) for file in files if "." not in file or file.endswith(".yaml")]:
            for key, value, entries in _NAMES.findall(path.read_bytes()):
                texts = [
                    *value.strip(b" []\r").split(b","),
                    *(line.strip()[1:] for line in entries.splitlines()),
                ]
                if key == b"include":
                    for included in map(_plain, texts):
                        including.setdefault(os.path.normpath(f"{directory}/{included}"), []).append(path)
                    continue
                if key != b"tag" and not value.startswith(b"["):
                    defined[_plain(value)] = [path]
                for name in map(_plain, texts):
                    listed.setdefault(name, [])
                    if key == b"tag":
                        listed[name].append(path)
    tagged = {name: files and _with_those_that_include(files, including) for name, files in listed.items()}
    return {name: files for name, files in {**tagged, **defined}.items() if name}


def _with_those_that_include(files: list[Path], including: Mapping[str, list[Path]]) -> list[Path]:
    """A tag of a file is that of the files that include it."""
    found = dict.fromkeys(files)
    waiting = list(files)
    while waiting:
        more = [file for file in including.get(str(waiting.pop()), []) if file not in found]
        found.update(dict.fromkeys(more))
        waiting += more
    return list(found)


def _plain(value: bytes) -> str:
    """A YAML value without its quotes and a comment behind it."""
    return re.sub(r"\s+#.*", "", value.decode(errors="replace")).strip(" \t\r\"'")


def _read(file: Path) -> dict[str, Any]:
    """A task's file over those that it includes.

    Raises:
        UserError: it cannot be read, or is no mapping in YAML.
    """
    with path_errors(file):
        own = dict(_parsed(file, file.read_bytes()))
    includes = own.get("include") or []
    for include in includes if isinstance(includes, list) else [includes]:
        own = {**_read(file.parent / include), **own}
    return own


@functools.lru_cache(maxsize=4096)  # Several questions are asked of the same files.
def _parsed(file: Path, text: bytes) -> dict[str, Any]:
    try:
        own = yaml.load(text, _TaskLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{file}{line}: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(own, dict):
        raise UserError(f"{file}: defines no task: it must hold keys and values")
    return own


class _TaskLoader(yaml.SafeLoader):
    """Reads plain data; functions, which lm-eval would import, become their names."""


_TaskLoader.add_multi_constructor("!", lambda loader, suffix, node: node.value)
