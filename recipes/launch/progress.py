"""How far a run is, from what it has written."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from recipes.console import duration, printable
from recipes.counts import counted
from recipes.launch.launched import STATE, jobs_of, log_files
from recipes.run_directory import read_metrics

AGAIN = "launched again, it goes on after what is done"
CORRECTED = "correct that first; launched again, it goes on after what is done"
FOR_GOOD = {2, 4}
"""Exit codes that another start would end with, too."""
ERROR = re.compile(r"^ *(?:\d+: )?(error: .*|stopped by a guard: .*)$", re.MULTILINE)
"""A line of a task, with or without its number."""
SHOWN_ERRORS = 3
ENDED = re.compile(r": srun ended, exit code (\d+)$", re.MULTILINE)


def job_progress(directory: Path, running: bool) -> list[str]:
    """Of any other job: what its newest script has said last and how it ended; of a cleaning job, the stage
    that is not complete, and the result.

    Args:
        running: or waiting.
    """
    lines = last_words(directory)
    if (said := _said(directory)) and not running:
        lines.insert(1, f"result     {_result(list(map(_text, said)))}")
        lines += _errors(directory)
    if (directory / "report.json").exists():
        return [*lines, f"report     {directory / 'report.html'}: the job is complete"]
    if stage := _stage(directory):
        lines.append(f"stage      {stage}")
        if not running:
            lines.append(f"report     none: the job has ended before; {AGAIN}")
    return lines or ["log        nothing yet"]


def last_words(directory: Path) -> list[str]:
    """The newest line of the newest script; nothing without one."""
    if not (said := _said(directory)):
        return []
    newest = max(said, key=lambda path: path.stat().st_mtime)
    return [f"log        {newest}: {printable(_text(newest).strip().rpartition(chr(10))[2]) or 'empty'}"]


def _said(directory: Path) -> list[Path]:
    """What the scripts of the newest job write, each for a part of it."""
    if not (jobs := jobs_of(directory)):
        return []
    return [path for name in (".out", "_*.out") for path in (directory / STATE).glob(jobs[-1].job + name)]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _result(texts: list[str]) -> str:
    """Of what the script of each part of a job has said."""
    codes = [ENDED.findall(text) for text in texts]
    bad = sorted({int(each[-1]) for each in codes if each and each[-1] != "0"})
    cut = sum(not each for each in codes)
    told = [f"exit code {', '.join(map(str, bad))}"] if bad else []
    told += ["ended from outside: cancelled, or by a lost node or its time limit"] if cut else []
    if not told:
        return "complete"
    parts = sum(each[-1:] != ["0"] for each in codes)
    of = f"{parts:,} of {len(codes):,} parts: " if len(codes) > 1 else ""
    return f"{of}{'; '.join(told)}; {CORRECTED if FOR_GOOD & set(bad) else AGAIN}"


def _errors(directory: Path) -> list[str]:
    """What the tasks of the newest start have refused with, each line once."""
    found: dict[str, None] = {}
    for log in log_files(directory):
        for line in ERROR.findall(_text(log)):
            found[printable(line)] = None
    return [f"said       {each}" for each in list(found)[-SHOWN_ERRORS:]]


def _stage(directory: Path) -> str | None:
    """The first of cleaning's stages, in the order of their submission, with tasks that are not done."""
    asked = sorted(directory.glob("logs/*/ranks_to_run.json"), key=lambda path: path.stat().st_mtime_ns)
    for path in asked:
        stage, ranks = path.parent, json.loads(path.read_text(encoding="utf-8"))
        done = sum((stage / f"completions/{rank:05d}").exists() for rank in ranks)
        if done < len(ranks):
            return f"{stage.name}: {done:,} of {counted(len(ranks), 'task')} done; {stage / 'slurm_logs'}"
    return None


def progress_lines(run: Path, running: bool) -> list[str]:
    """The newest step, and the newest checkpoint; of a run that has ended on Slurm also how.

    Args:
        running: or waiting.
    """
    lines = [] if running else [*last_words(run), *_errors(run)]
    steps = [record for record in read_metrics(run / "metrics.jsonl") if "loss" in record]
    if steps:
        newest = steps[-1]
        age = time.time() - (run / "metrics.jsonl").stat().st_mtime
        lines.append(
            f"step       {newest['step']:,}, loss {newest['loss']:.4f}, "
            f"{newest.get('tokens_per_second', 0):,.0f} tokens/s, written {duration(max(age, 0))} ago"
        )
    else:
        lines.append("step       none yet")
    checkpoints = sorted((run / "checkpoints").glob("step_*/manifest.json"))
    lines.append(f"checkpoint {checkpoints[-1].parent if checkpoints else 'none yet'}")
    if (run / "model.nemo").exists():
        lines.append(f"model      {run / 'model.nemo'}: the run is complete")
    return lines
