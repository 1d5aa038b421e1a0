"""Tokenize many files, each to a prefix of its own, on as many nodes as there are.

A node (a shard) does its files whatever becomes of the others: there is nothing to wait for and nothing to
merge, for training reads a directory of prefixes as one source. What is done is known by the prefix itself,
with its checksums; an interrupted file goes on where its journal ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.arguments import work_begins
from recipes.checks import of_a_machine
from recipes.console import Progress
from recipes.counts import counted, size_in_words
from recipes.data.samples.indexed import bin_path
from recipes.data.text.compression import is_compressed
from recipes.data.text.documents import check_input
from recipes.data.text.input_files import json_lines_files
from recipes.data.tokenize.preprocess import preprocess
from recipes.data.tokenizer import load_tokenizer
from recipes.data.workers import WorkerDied, WorkerPool, in_this_process
from recipes.errors import UserError
from recipes.files import check_writable, make_directory

_SHOWN_FAILURES = 3


@dataclass(frozen=True)
class Job:
    """One input and where its tokens go."""

    path: str
    prefix: str
    size: int
    """Bytes on disk."""


@dataclass(frozen=True)
class _Outcome:
    messages: list[str]
    error: str | None


def preprocess_many(
    patterns: Sequence[str],
    out_dir: str | Path,
    tokenizer_path: str | Path,
    *,
    shard: tuple[int, int] = (0, 1),
    workers: int = 1,
    log: Callable[[str], None],
    progress: bool = False,
    **options: Any,
) -> None:
    """Tokenize each file to a prefix in ``out_dir``. A file that fails does not keep others from being done.

    With at least as many files as workers each worker takes whole files; else all work on one after another.

    Args:
        patterns: files, globs and directories, as :func:`json_lines_files` takes them.
        out_dir: where the prefixes go; those of a directory keep their places below it.
        tokenizer_path: what `load_tokenizer` loads.
        shard: number of this node, from 0, and how many there are. All must see the same files.
        workers: number of processes.
        log: called with what :func:`preprocess` says of each file.
        progress: show rate and remaining time on stderr.
        options: further ones of :func:`preprocess`.

    Raises:
        UserError: two inputs have the same name; or, at the end, the names of the files that failed.
    """
    of_a_machine("--workers", workers)
    load_tokenizer(tokenizer_path)  # One complaint about it, not one per file.
    of_all = find_jobs(patterns, out_dir)
    check_writable(bin_path(of_all[0].prefix))
    work_begins()
    jobs = jobs_of_shard(of_all, *shard)
    sizes = [job.size for job in jobs]
    log(f"shard {shard[0]} of {shard[1]}: {counted(len(jobs), 'file')}, {size_in_words(sum(sizes))}")
    together = len(jobs) < workers
    options |= {
        "tokenizer_path": str(tokenizer_path),
        "workers": workers if together else 1,
        "progress": progress and together,
    }
    failed: list[str] = []

    def report(outcomes: Iterator[tuple[Job, _Outcome]]) -> None:
        with Progress(sum(sizes), enabled=progress and not together) as bar:
            for number, (job, outcome) in enumerate(outcomes, 1):
                for message in outcome.messages:
                    log(message)
                if outcome.error is not None:
                    log(f"failed: {outcome.error}")
                    failed.append(f"{job.path} ({outcome.error})")
                bar.add(job.size, f"{number:,} of {counted(len(jobs), 'file')}, {job.path} done")

    if together or workers == 1:
        report(in_this_process(_make_work(options), iter(jobs)))
    else:
        try:
            with WorkerPool(workers, _make_work, (options,)) as pool:
                report(pool.map(iter(jobs)))
        except WorkerDied:
            raise UserError(
                "a worker process died (out of memory?): the same command goes on after what is done; "
                "try fewer --workers"
            ) from None
    if failed:
        more = f"; and {len(failed) - _SHOWN_FAILURES} more, above" if len(failed) > _SHOWN_FAILURES else ""
        shown = "; ".join(failed[:_SHOWN_FAILURES])
        raise UserError(f"{len(failed):,} of {counted(len(jobs), 'file')} failed: {shown}{more}")


def find_jobs(patterns: Sequence[str], out_dir: str | Path) -> list[Job]:
    """Every input with its prefix, in the order of the patterns and then of the names.

    Raises:
        UserError: a pattern matches nothing, or two inputs would have the same prefix.
    """
    jobs: dict[str, Job] = {}
    for pattern in patterns:
        top = Path(pattern)
        for path in json_lines_files(pattern):
            relative = path.relative_to(top) if top.is_dir() else Path(path.name)
            relative = relative.with_suffix("") if is_compressed(path) else relative
            prefix = str(Path(out_dir) / relative.with_suffix(""))
            if prefix in jobs:
                raise UserError(
                    f"{path} and {jobs[prefix].path} would both become {prefix}: rename one, or give their "
                    "common directory"
                )
            jobs[prefix] = Job(str(path), prefix, path.stat().st_size)
    return list(jobs.values())


def jobs_of_shard(jobs: list[Job], number: int, count: int) -> list[Job]:
    """This shard's part: about the same bytes for each, the same division on every node."""
    shards: list[list[Job]] = [[] for _ in range(count)]
    loads = [0] * count
    for job in sorted(jobs, key=lambda job: (-job.size, job.prefix)):
        lightest = loads.index(min(loads))
        shards[lightest].append(job)
        loads[lightest] += job.size
    return shards[number]


def parse_shard(text: str | None, environment: dict[str, str]) -> tuple[int, int]:
    """Number and count from ``I/N`` (I from 0), else from a Slurm job array's variables, else 0 of 1.

    Raises:
        UserError: it is not a shard; the array is not a plain range.
    """
    if text is not None:
        part, slash, parts = text.partition("/")
        if not (slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
            raise UserError(f"--shard {text}: give I/N with I from 0 to N - 1, for example 0/8")
        return int(part), int(parts)
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return 0, 1
    name = "SLURM_ARRAY_TASK_"
    task, first, last, count = (int(environment[name + end]) for end in ("ID", "MIN", "MAX", "COUNT"))
    if last - first + 1 != count:
        raise UserError(
            f"a job array of {count} tasks from {first} to {last} has gaps: name this part with --shard I/N"
        )
    return task - first, count


def _make_work(options: dict[str, Any]) -> Callable[[Job], _Outcome]:
    """Called in a worker process; the result does one file."""

    def work(job: Job) -> _Outcome:
        messages: list[str] = []
        try:
            check_input(job.path)
            make_directory(Path(job.prefix).parent)
            preprocess([job.path], prefix=job.prefix, log=messages.append, **options)
        except UserError as error:
            return _Outcome(messages, str(error))
        return _Outcome(messages, None)

    return work
