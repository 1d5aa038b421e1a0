"""A directory of benchmark data that stands in for the Hugging Face hub where there is no network.

`MIRROR/<org>/<name>/` holds the parquet files of one data set and a README whose front matter lists its
configurations and splits, so that `datasets.load_dataset("<org>/<name>")` finds it when the mirror is the
current directory. `manifest.json` lists every file, "<org>/<name>/<config>/<split>", with its rows, its
checksum and the tasks that use it. `tools/prefetch_benchmarks.py` writes mirrors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from recipes.console import shown
from recipes.data.hub import setting, without_hub
from recipes.errors import UserError
from recipes.files import atomic_write, sha256_file

MANIFEST = "manifest.json"
PROGRAMS = (".py", ".pyc", ".so")
"""Where a mirror is the current directory, libraries may take such files in it for their own: Hugging Face's
evaluate runs accuracy/accuracy.py for the metric of that name."""

Manifest = dict[str, dict[str, Any]]
"""{"<org>/<name>/<config>/<split>": {"rows": int, "sha256": str, "tasks": [str], "revision": str or null,
"made_for": {task: {"version": str, "lm_eval": str, "task_path": [str]}}}}; the last two are not in mirrors of
early releases, and task_path is noted only of tasks that stand in a user's own directories."""


def prefetch_command(mirror: Path | str, tasks: Iterable[str], task_path: Iterable[str] = ()) -> str:
    """What fetches the data of tasks into a mirror, as it can be given to a shell.

    Args:
        task_path: the directories in which some of these tasks are found.
    """
    command = ["python", "-m", "tools.prefetch_benchmarks", str(mirror), "--tasks", ",".join(tasks)]
    for directory in task_path:
        command += ["--task-path", directory]
    return shlex.join(command)


def config_entry(data_set: str, configuration: str | None) -> str:
    """What the manifest's entries of one data set in one configuration begin with."""
    return f"{data_set}/{configuration or 'default'}"


def split_file(mirror: Path, entry: str) -> Path:
    """The parquet file of a manifest entry."""
    return mirror / f"{entry}-00000-of-00001.parquet"


def read_manifest(mirror: Path) -> Manifest:
    """The manifest of a mirror.

    Raises:
        UserError: the directory is not a mirror, or its manifest is damaged.
    """
    file = mirror / MANIFEST
    try:
        manifest: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{mirror} is not a benchmark mirror (no {MANIFEST}): tools.prefetch_benchmarks makes one"
        ) from error
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}; {_MAKE_AGAIN}") from error
    if not isinstance(manifest, dict) or not all(map(_is_entry, manifest.values())):
        raise UserError(
            f"{file} is damaged: it does not list files with rows, sha256 and tasks; {_MAKE_AGAIN}"
        )
    checked: Manifest = manifest
    return checked


_MAKE_AGAIN = "delete it, and fetch the mirror again with tools.prefetch_benchmarks"


def _is_entry(facts: Any) -> bool:
    return (
        isinstance(facts, dict)
        and isinstance(facts.get("rows"), int)
        and isinstance(facts.get("sha256"), str)
        and isinstance(facts.get("tasks"), list)
        and isinstance(facts.get("made_for", {}), dict)
    )


def write_index(mirror: Path, manifest: Manifest) -> None:
    """Write the README of every data set and, last, the manifest."""
    configs: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for entry in manifest:
        dataset, config, split = entry.rsplit("/", 2)
        configs[dataset][config].append(split)
    for dataset, splits_of in configs.items():
        lines = ["---", "configs:"]
        for config, splits in splits_of.items():
            lines += [f"- config_name: {config}", "  data_files:"]
            for split in splits:
                lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
        with atomic_write(mirror / dataset / "README.md", "w") as stream:
            stream.write("\n".join([*lines, "---", ""]))
    with atomic_write(mirror / MANIFEST, "w") as stream:
        json.dump(manifest, stream, indent=1)


def _program(mirror: Path) -> str | None:
    """One that lies in it, behind links too."""
    seen = set()
    for directory, inside, names in os.walk(mirror, followlinks=True):
        place = os.path.realpath(directory)
        if place in seen:  # A link that leads back.
            inside.clear()
            continue
        seen.add(place)
        for name in sorted(names):
            if name.endswith(PROGRAMS):
                return name
    return None


def verified_hash(mirror: Path) -> str:
    """One SHA-256 over a mirror's whole content, having checked every file against the manifest.

    Raises:
        UserError: a file is missing or differs, or is a program.
    """
    manifest = read_manifest(mirror)
    if (program := _program(mirror)) is not None:
        raise UserError(f"{mirror} holds a program, {shown(program)}; a mirror is nothing but data")
    for entry, facts in manifest.items():
        file = split_file(mirror, entry)
        again = f"fetch it again with {prefetch_command(mirror, facts['tasks'], _task_path(facts))}"
        if not file.is_file():
            raise UserError(f"{file} is missing, which {MANIFEST} names: {again}")
        if sha256_file(file) != facts["sha256"]:
            raise UserError(f"{file} differs from {MANIFEST}: {again}")
    content = {entry: facts["sha256"] for entry, facts in sorted(manifest.items())}
    content |= {str(p.relative_to(mirror)): sha256_file(p) for p in sorted(mirror.glob("*/*/README.md"))}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _task_path(facts: dict[str, Any]) -> list[str]:
    """The directories of the tasks for which a file was fetched."""
    noted = facts.get("made_for", {}).values()
    return sorted({directory for of_task in noted for directory in of_task.get("task_path", [])})


@contextlib.contextmanager
def in_place_of_hub(mirror: Path) -> Iterator[None]:
    """While inside, data sets load from `mirror` and nothing reaches for the network.

    The cache of loaded tables is named
    after the mirror's content, because `datasets` would serve the stale rows of a mirror that has changed in
    place.
    """
    import datasets

    cache = Path(datasets.config.HF_DATASETS_CACHE).absolute() / f"mirror-{verified_hash(mirror)[:16]}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(without_hub())
        stack.enter_context(setting(datasets.config, "HF_DATASETS_CACHE", cache))
        stack.enter_context(contextlib.chdir(mirror))
        yield
