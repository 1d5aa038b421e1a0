"""Where the documents of a loaded task come from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from recipes.data.benchmark_mirror import Manifest, config_entry, prefetch_command, read_manifest
from recipes.errors import UserError
from recipes.evaluation.task_files import configuration_of

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


def made_for(task: Any) -> dict[str, str]:
    """What a mirror notes of a task for which it holds data."""
    return {"version": str(task.VERSION), "lm_eval": version("lm_eval")}


def check_versions(tasks: Mapping[str, Any], mirror: Path) -> None:
    """Refuses a mirror that was made for another version of a task, which may ask other documents.

    Raises:
        UserError: naming the first such task.
    """
    noted: dict[str, dict[str, str]] = {}
    for facts in read_manifest(mirror).values():
        noted |= facts.get("made_for", {})
    for name, task in tasks.items():
        then, now = noted.get(name), made_for(task)
        if then is not None and then["version"] != now["version"]:
            raise UserError(
                f"the mirror {mirror} was made for version {then['version']} of the task {name} (lm-eval "
                f"{then['lm_eval']}); lm-eval {now['lm_eval']} has version {now['version']}: fetch it again "
                f"with {prefetch_command(mirror, [name])}"
            )
