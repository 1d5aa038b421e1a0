"""How far a run is, from what it has written."""

from __future__ import annotations

import time
from pathlib import Path

from recipes.console import duration
from recipes.run_directory import read_metrics


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
