"""Run directories for the tests of the report."""

import json
from pathlib import Path


def training_line(step: int, **more: object) -> dict[str, object]:
    line: dict[str, object] = {"step": step, "consumed_samples": step * 8, "consumed_tokens": step * 1024}
    line |= {"loss": 10 / (1 + step), "lr": 1e-3, "grad_norm": 1.0, "tokens_per_second": 5000.0, "mfu": None}
    return line | {"elapsed_s": step * 0.5} | more


def make_run(path: Path, lines: list[object], tail: str = "", **files: object) -> Path:
    path.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines) + tail
    (path / "metrics.jsonl").write_text(text, encoding="utf-8")
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return path


SUMMARY = {
    "wall_s": 200.0,
    "hardware": "2 CPU cores",
    "accuracy": {"hi": {"before": 0.25, "after": 0.6, "stderr": 0.02, "n": 500, "constant_answer": 0.3}},
    "resumed_at_step": 10,
    "tokens_per_second": 5000,
    "completions": [
        {"prompt": "भारत की राजधानी", "completion": " दिल्ली है।"},
        {"prompt": "The", "completion": " end"},
    ],
}


def evaluation(name: str, value: float = 0.5) -> dict[str, object]:
    """A file in evaluation/, in which every text is `name`."""
    task = {
        "scores": {f"acc_{name},none": {"value": value, "stderr": 0.02}},
        "n": 500,
        "constant_answer": 0.3,
    }
    return {"format": 1, "model": name, "requested": [name], "tasks": {name: task}}
