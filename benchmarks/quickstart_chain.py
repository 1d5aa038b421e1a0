"""The quick start, shortened: training rate, then completion and benchmark with what was trained."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.records import add_json_option, record
from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.errors import UserError
from recipes.report.evaluation_result import read_results
from recipes.run_directory import read_metrics

EXAMPLES = """\
examples:
  python -m benchmarks.quickstart_chain --data DIR trainer.max_steps=400

Every step is one of the README's commands in a process of its own. A step of training has 1,024 tokens.
"""

ROOT = Path(__file__).resolve().parents[1]
NAME = "chain"


def command(who: str, line: list[str], json_file: Path | None, **figures: Any) -> str:
    """Runs it; prints and records its seconds; returns what it printed."""
    started = time.perf_counter()
    environment = dict(os.environ) | {"PYTHON": sys.executable, "greedy": "true"}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    print(done.stdout + done.stderr, end="")
    if done.returncode:
        raise UserError(f"{who}: exit code {done.returncode}: {(done.stderr or done.stdout)[-300:]}")
    record(json_file, who=who, seconds=time.perf_counter() - started, **figures)
    return done.stdout


def main() -> None:
    """Data, training, completion, benchmark."""
    parser = Arguments("benchmarks.quickstart_chain", __doc__, EXAMPLES)
    parser.add_argument("--data", type=Path, required=True, help="directory for corpus and run, kept")
    add_json_option(parser)
    parser.add_argument("overrides", nargs="*", help="settings of recipes.pretrain")
    options = parser.parse_intermixed_args()
    data = options.data.resolve()
    if not (data / "train_hi.idx").exists():
        from benchmarks.measure.step_time import write_data

        write_data(data)
    python = [sys.executable, "-m"]
    run = data / f"{NAME}_{os.getpid()}"
    settings = ["experiment=quickstart", f"data_dir={data}", f"output_dir={data}", f"name={run.name}"]
    command("pretrain", [*python, "recipes.pretrain", *settings, *options.overrides], options.json)
    records = read_metrics(run / "metrics.jsonl")
    losses = [entry for entry in records if "loss" in entry]
    # The first rates hold what happens once: compilation, first batches.
    rates = [entry["tokens_per_second"] for entry in losses[len(losses) // 2 :]]
    held_out = {
        key: value for entry in records for key, value in entry.items() if key.endswith(".bits_per_byte")
    }
    print(f"{statistics.median(rates):,.0f} tokens/s, loss {losses[-1]['loss']:.3f}, {held_out}")
    record(
        options.json,
        who="training",
        tokens_per_second=statistics.median(rates),
        steps=losses[-1]["step"],
        loss=losses[-1]["loss"],
        **held_out,
    )
    prompts = [
        json.loads((data / "corpus" / "benchmark" / f"{language}.jsonl").open(encoding="utf-8").readline())
        for language in ("en", "hi")
    ]
    model = run / "model.nemo"
    questions = [prompt["question"] for prompt in prompts]
    command("complete", [str(ROOT / "nemo_inference.sh"), str(model), *questions], options.json)
    results = run / "evaluation.json"
    benchmark = ["eval=minibench", f"minibench={data / 'corpus' / 'benchmark'}", f"output={results}"]
    command("evaluate", [*python, "recipes.evaluate", f"gpt_model_file={model}", *benchmark], options.json)
    tasks = read_results(results).tasks
    accuracy = {name: task.scores["acc,none"].value for name, task in tasks.items()}
    record(options.json, who="accuracy", **accuracy)


if __name__ == "__main__":
    run_tool(main)
