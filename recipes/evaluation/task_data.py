"""Where the documents of a loaded task come from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from recipes.counts import counted
from recipes.data.benchmark_mirror import Manifest, config_entry, read_manifest
from recipes.errors import UserError
from recipes.evaluation.task_files import configuration_of, fetch_command, own_task_path

_REVISION = re.compile(r"[0-9a-f]{40}")


def data_of(task: Any, manifest: Manifest) -> dict[str, Any]:
    """A task's data set, for its results; empty for tasks that make their own documents.

    Args:
        manifest: of the mirror that it was loaded from; empty: the hub.
    """
    config = task.config
    if config.dataset_path is None:
        return {}
    configuration = configuration_of(vars(config))
    prefix = config_entry(config.dataset_path, configuration)
    held = {entry: facts for entry, facts in manifest.items() if entry.rpartition("/")[0] == prefix}
    revisions = {facts["revision"] for facts in held.values() if facts.get("revision")}
    return {
        "data_set": config.dataset_path,
        "configuration": configuration,
        "revision": next(iter(revisions), None) if manifest else hub_revision(task),
        "sha256": {entry.rpartition("/")[2]: facts["sha256"] for entry, facts in held.items()},
    }


def hub_revision(task: Any) -> str | None:
    """The hub's commit that a task's data set was loaded at; None if it did not come from the hub.

    `datasets` keeps a table of the hub in a directory that has the name of the commit, one of local files
    in one that has another digest's.
    """
    for split in task.dataset.values():
        for file in split.cache_files:
            directory = Path(file["filename"]).parent.name
            if _REVISION.fullmatch(directory):
                return directory
    return None


def made_for(name: str, task: Any, task_path: Sequence[str]) -> dict[str, Any]:
    """What a mirror notes of a task for which it holds data."""
    noted = {"version": str(task.VERSION), "lm_eval": version("lm_eval")}
    directories = [str(Path(directory).absolute()) for directory in own_task_path([name], task_path)]
    return {**noted, "task_path": directories} if directories else noted


def check_versions(versions: Mapping[str, Mapping[str, str]], mirror: Path, task_path: Sequence[str]) -> None:
    """Refuses a mirror that was made for another version of a task, which may ask other documents.

    Args:
        versions: of the tasks as they are now, by the name that was asked for: a task's own, or a group's.

    Raises:
        UserError: naming the first such task, and the command that fetches for all.
    """
    noted: dict[str, dict[str, str]] = {}
    for facts in read_manifest(mirror).values():
        noted |= facts.get("made_for", {})
    changed = [
        (asked, task, now)
        for asked, of_tasks in versions.items()
        for task, now in of_tasks.items()
        if task in noted and noted[task]["version"] != now
    ]
    if not changed:
        return
    _, task, now = changed[0]
    again = list(dict.fromkeys(asked for asked, *_ in changed))
    others = f", and {counted(len(again) - 1, 'other')} changed too" if len(again) > 1 else ""
    raise UserError(
        f"the mirror {mirror} was made for version {noted[task]['version']} of the task {task} (lm-eval "
        f"{noted[task]['lm_eval']}); lm-eval {version('lm_eval')} has version {now}{others}: fetch it again "
        f"with {fetch_command(mirror, again, task_path)}"
    )
