"""Where the documents of a loaded task come from."""

from __future__ import annotations

import re
from typing import Any

from recipes.data.benchmark_mirror import Manifest, config_entry

# hf://datasets/<org>/<name>@<commit>/<file>
_REVISION = re.compile(r"@([0-9a-f]{40})/")


def data_of(task: Any, manifest: Manifest) -> dict[str, Any]:
    """A task's data set, for its results; empty for tasks that make their own documents.

    Args:
        manifest: of the mirror that it was loaded from; empty: the hub.
    """
    config = task.config
    if config.dataset_path is None:
        return {}
    prefix = config_entry(config.dataset_path, config.dataset_name)
    held = {entry: facts for entry, facts in manifest.items() if entry.rpartition("/")[0] == prefix}
    revisions = {facts["revision"] for facts in held.values() if facts.get("revision")}
    return {
        "data_set": config.dataset_path,
        "configuration": config.dataset_name,
        "revision": next(iter(revisions), None) if manifest else hub_revision(task),
        "sha256": {entry.rpartition("/")[2]: facts["sha256"] for entry, facts in held.items()},
    }


def hub_revision(task: Any) -> str | None:
    """The hub's commit that a task's data set was loaded at; None if it did not come from the hub."""
    for split in task.dataset.values():
        for url in split.info.download_checksums or {}:
            if found := _REVISION.search(url):
                return found[1]
    return None
