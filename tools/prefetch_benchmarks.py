"""Fetch the data of lm-eval tasks into a mirror directory, for machines without network access.

Run it on a machine with network access (a login node); pass the directory to the evaluation as its mirror.

examples:
  python -m tools.prefetch_benchmarks /shared/benchmarks eval=param1_table
  python -m tools.prefetch_benchmarks /shared/benchmarks eval=indic --dry-run
  python -m tools.prefetch_benchmarks /shared/benchmarks --tasks arc_easy,hellaswag_hi,mmlu
  python -m tools.prefetch_benchmarks /scratch/benchmarks --tasks mmlu --source /shared/benchmarks
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.arguments import Arguments, work_begins
from recipes.cli import run_tool
from recipes.console import say
from recipes.counts import counted
from recipes.errors import UserError

if TYPE_CHECKING:
    from recipes.data.benchmark_mirror import Manifest


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    description, _, epilog = str(__doc__).partition("\n\n")
    parser = Arguments("tools.prefetch_benchmarks", description, epilog)
    parser.add_argument("mirror", type=Path, help="the directory to write; what it already holds is kept")
    parser.add_argument("table", nargs="?", metavar="eval=NAME", help="the tasks of a table of conf/eval")
    parser.add_argument("--tasks", default="", help="lm-eval tasks or groups, separated by commas")
    parser.add_argument("--task-path", action="append", default=[], metavar="DIR", help="your own task files")
    parser.add_argument("--source", type=Path, help="another mirror to copy from, instead of the hub")
    parser.add_argument("--dry-run", action="store_true", help="list the data sets that would be fetched")
    options = parser.parse_args(arguments)
    names = _names(options.table, options.tasks)
    if options.dry_run:
        _list(options.mirror, names, options.task_path)
        return
    files, rows = prefetch(options.mirror, names, options.source, options.task_path)
    tasks = counted(len(names), "task")
    print(f"{options.mirror}: {counted(files, 'file')} with {counted(rows, 'row')} for {tasks}")


def _names(table: str | None, tasks: str) -> list[str]:
    """The tasks of a table, which is written as in recipes.evaluate, and those that are named one by one.

    Raises:
        UserError: there is no such table, or nothing is named.
    """
    from recipes.config.evaluation_tables import read_table
    from recipes.evaluation.task_files import is_made_here

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if local := [name for name in names if is_made_here(name)]:
        raise UserError(f"{local[0]} reads local files: there is nothing to fetch")
    if table is not None:
        key, equals, value = table.partition("=")
        if key != "eval" or not equals:
            raise UserError(f"{table}: name a table as eval=param1_table, or tasks with --tasks")
        of_table = read_table("eval", value)["tasks"]
        names += [name for name in of_table if name not in names and not is_made_here(name)]
        if not names:
            raise UserError(f"eval={value} reads local files: there is nothing to fetch")
    if not names:
        raise UserError("name a table, eval=param1_table, or tasks with --tasks")
    return names


def _list(mirror: Path, names: list[str], task_path: list[str]) -> None:
    """Prints what the tasks read, and whether the mirror has it."""
    from recipes.data.benchmark_mirror import MANIFEST, config_entry, read_manifest
    from recipes.evaluation.task_files import check_task_names, data_sets_of

    check_task_names(names, task_path)
    work_begins()
    manifest = read_manifest(mirror) if (mirror / MANIFEST).exists() else {}
    held = {entry.rpartition("/")[0] for entry in manifest}
    users: dict[str, int] = {}
    for _, data_set, configuration in data_sets_of(names, task_path):
        entry = config_entry(data_set, configuration)
        users[entry] = users.get(entry, 0) + 1
    for entry, tasks in users.items():
        print(f"{'in the mirror' if entry in held else 'to be fetched'}  {entry}, {counted(tasks, 'task')}")
    missing = len(set(users) - held)
    print(f"{missing:,} of {len(users):,} data sets would be fetched into {mirror}")


def prefetch(
    mirror: Path, names: list[str], source: Path | None = None, task_path: Sequence[str] = ()
) -> tuple[int, int]:
    """Write every split of every data set that the tasks load, and add them to the mirror's index.

    A task whose data the hub does not give keeps none of the others from being fetched.

    Returns:
        The number of files written and of rows in them.

    Raises:
        UserError: an unknown task, data that cannot be loaded, a mirror that cannot be written.
    """
    from recipes.data.benchmark_mirror import MANIFEST, read_manifest, write_index
    from recipes.evaluation.task_files import check_task_names, reads_only_files
    from recipes.evaluation.tasks import OutOfReach, load_tasks, out_of_reach
    from recipes.files import check_writable

    check_task_names(names, task_path)
    names = [name for name in names if not reads_only_files(name, task_path)]
    check_writable(mirror / MANIFEST)
    copied = read_manifest(source) if source else {}
    work_begins()
    if source is None and (reason := out_of_reach(names, task_path)):
        fix = "run this where there is network, or copy from another mirror with --source DIR"
        raise UserError(f"{reason}; {fix}")
    manifest = read_manifest(mirror) if (mirror / MANIFEST).exists() else {}
    written: Manifest = {}
    failed: dict[str, str] = {}
    # From the hub one by one: what is fetched stays if a later one fails, or all is interrupted.
    for some in [names] if source else [[name] for name in names]:
        try:
            tasks = load_tasks(some, mirror=source, task_path=task_path)["tasks"]
            fetched = _write_splits(mirror, tasks, copied, written, task_path)
        except UserError as error:
            if source:
                raise
            failed[some[0]] = error.reason if isinstance(error, OutOfReach) else str(error)
            continue
        for entry in fetched:
            manifest[entry] = _joined(manifest.get(entry, {}), written[entry])
        write_index(mirror, manifest)
        if len(names) > 1 and not source:
            say(f"{some[0]}: {counted(len(fetched), 'file')} in {mirror}")
    if failed:
        raise UserError(_of_failed(failed, len(names), mirror, task_path))
    return len(written), sum(facts["rows"] for facts in written.values())


def _write_splits(
    mirror: Path,
    tasks: Mapping[str, Any],
    copied: "Manifest",
    written: "Manifest",
    task_path: Sequence[str],
) -> list[str]:
    """Writes those splits of the tasks that are not among the `written`, which it adds to; returns all.

    Args:
        copied: the manifest of the mirror from which they were loaded; empty: they come from the hub.
    """
    from recipes.data.benchmark_mirror import split_file
    from recipes.evaluation.task_data import hub_revision, made_for

    fetched = []
    for name, task in tasks.items():
        for entry, split in _splits(name, task):
            if entry not in written:
                written[entry] = {
                    **_write_parquet(split, split_file(mirror, entry)),
                    "tasks": [],
                    "revision": copied[entry].get("revision") if copied else hub_revision(task),
                    "made_for": {},
                }
            written[entry]["tasks"].append(name)
            written[entry]["made_for"][name] = made_for(name, task, task_path)
            fetched.append(entry)
    return sorted(set(fetched))


def _joined(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """An entry of the manifest that says for which tasks it was fetched, now and earlier."""
    return {
        **now,
        "tasks": sorted({*before.get("tasks", []), *now["tasks"]}),
        "made_for": {**before.get("made_for", {}), **now["made_for"]},
    }


def _of_failed(failed: dict[str, str], asked: int, mirror: Path, task_path: Sequence[str]) -> str:
    from recipes.evaluation.task_files import fetch_command

    (_, reason), *others = failed.items()
    also = f" (and {', '.join(name for name, _ in others)})" if others else ""
    kept = asked - len(failed)
    rest = f"what the {counted(kept, 'other task')} need is in {mirror}; " if kept else ""
    return f"{reason}{also}; {rest}again: {fetch_command(mirror, list(failed), task_path)}"


def _splits(name: str, task: Any) -> list[tuple[str, Any]]:
    """The manifest entries of a task's data set, with their tables."""
    from recipes.data.benchmark_mirror import config_entry
    from recipes.evaluation.task_files import configuration_of

    config = task.config
    if config.dataset_path is None or set(config.dataset_kwargs or {}) - {"data_dir", "revision"}:
        raise UserError(f"task {name} loads its data in a way of its own, which a mirror cannot stand in for")
    prefix = config_entry(config.dataset_path, configuration_of(vars(config)))
    return [(f"{prefix}/{split}", table) for split, table in task.dataset.items()]


def _write_parquet(table: Any, path: Path) -> dict[str, Any]:
    from recipes.data.hub import without_bars
    from recipes.files import atomic_write, make_directory, sha256_file

    make_directory(path.parent)
    with without_bars(), atomic_write(path) as stream:
        table.to_parquet(stream)
    return {"rows": len(table), "sha256": sha256_file(path)}


if __name__ == "__main__":
    run_tool(main)
