"""Fetch the data of lm-eval tasks into a mirror directory, for machines without network access.

Run it on a machine with network access (a login node); pass the directory to the evaluation as its mirror.

examples:
  python -m tools.prefetch_benchmarks /shared/benchmarks --tasks arc_easy,hellaswag_hi,mmlu
  python -m tools.prefetch_benchmarks /scratch/benchmarks --tasks mmlu --source /shared/benchmarks
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.errors import UserError

if TYPE_CHECKING:
    from recipes.data.benchmark_mirror import Manifest


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    description, _, epilog = str(__doc__).partition("\n\n")
    parser = Arguments("tools.prefetch_benchmarks", description, epilog)
    parser.add_argument("mirror", type=Path, help="the directory to write; what it already holds is kept")
    parser.add_argument("--tasks", required=True, help="lm-eval tasks or groups, separated by commas")
    parser.add_argument("--source", type=Path, help="another mirror to copy from, instead of the hub")
    options = parser.parse_args(arguments)
    names = [name.strip() for name in options.tasks.split(",") if name.strip()]
    files, rows = prefetch(options.mirror, names, options.source)
    print(f"{options.mirror}: {files:,} files with {rows:,} rows for {len(names)} tasks")


def prefetch(mirror: Path, names: list[str], source: Path | None = None) -> tuple[int, int]:
    """Write every split of every data set that the tasks load, and add them to the mirror's index.

    Returns:
        The number of files written and of rows in them.

    Raises:
        UserError: an unknown task, data that cannot be loaded, a mirror that cannot be written.
    """
    from recipes.data.benchmark_mirror import MANIFEST, read_manifest, split_file, write_index
    from recipes.evaluation.task_data import hub_revision, made_for
    from recipes.evaluation.task_files import MINIBENCH_FILES
    from recipes.evaluation.tasks import load_tasks
    from recipes.files import check_writable

    if not names:
        raise UserError("--tasks names no task")
    if local := [name for name in names if name in MINIBENCH_FILES]:
        raise UserError(f"{local[0]} reads local files: there is nothing to fetch")
    check_writable(mirror / MANIFEST)
    manifest = read_manifest(mirror) if (mirror / MANIFEST).exists() else {}
    tasks = load_tasks(names, mirror=source)["tasks"]
    copied = read_manifest(source) if source else {}
    written: Manifest = {}
    for name, task in tasks.items():
        for entry, split in _splits(name, task):
            if entry not in written:
                written[entry] = {
                    **_write_parquet(split, split_file(mirror, entry)),
                    "tasks": [],
                    "revision": copied[entry].get("revision") if source else hub_revision(task),
                    "made_for": {},
                }
            written[entry]["tasks"].append(name)
            written[entry]["made_for"][name] = made_for(task)
    for entry, facts in written.items():
        before = manifest.get(entry, {})
        manifest[entry] = {
            **facts,
            "tasks": sorted({*before.get("tasks", []), *facts["tasks"]}),
            "made_for": {**before.get("made_for", {}), **facts["made_for"]},
        }
    write_index(mirror, manifest)
    return len(written), sum(facts["rows"] for facts in written.values())


def _splits(name: str, task: Any) -> list[tuple[str, Any]]:
    """The manifest entries of a task's data set, with their tables."""
    config = task.config
    if config.dataset_path is None or config.dataset_kwargs:
        raise UserError(f"task {name} loads its data in a way of its own, which a mirror cannot stand in for")
    prefix = f"{config.dataset_path}/{config.dataset_name or 'default'}"
    return [(f"{prefix}/{split}", table) for split, table in task.dataset.items()]


def _write_parquet(table: Any, path: Path) -> dict[str, Any]:
    from recipes.files import atomic_write, make_directory, sha256_file

    make_directory(path.parent)
    with atomic_write(path) as stream:
        table.to_parquet(stream)
    return {"rows": len(table), "sha256": sha256_file(path)}


if __name__ == "__main__":
    run_tool(main)
