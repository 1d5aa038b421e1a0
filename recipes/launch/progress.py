"""How far a run is, from what it has written."""

from __future__ import annotations

import time
from pathlib import Path

from recipes.console import duration, printable
from recipes.launch.launched import STATE
from recipes.run_directory import read_metrics


def job_progress(directory: Path) -> list[str]:
    """Of any other job: the last line that its newest script has said, and a cleaning job's result."""
    lines = []
    if said := sorted((directory / STATE).glob("*.out"), key=lambda path: path.stat().st_mtime):
        text = said[-1].read_text(encoding="utf-8", errors="replace").strip()
        lines.append(f"log        {said[-1]}: {printable(text.rpartition(chr(10))[2]) or 'empty'}")
    if (directory / "report.json").exists():
        lines.append(f"report     {directory / 'report.html'}: the job is complete")
    return lines or ["log        nothing yet"]


def progress_lines(run: Path) -> list[str]:
    """The newest step, and the newest checkpoint."""
    lines = []
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
