"""From an empty machine to a trained, completing, evaluated model: what ``make quickstart`` runs.

Every step is one of the README's own commands, shown before it runs. The commands themselves skip steps whose
results already exist.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from recipes.arguments import Arguments
from recipes.cli import STOPPED_BY_SIGNAL, run_tool
from recipes.errors import UserError
from recipes.files import atomic_write, sha256_file
from recipes.run_directory import read_metrics

EXAMPLES = """\
examples:
  python -m tools.quickstart
  python -m tools.quickstart --output-dir outputs/short trainer.max_steps=500
"""
ROOT = Path(__file__).resolve().parents[1]
LANGUAGES = ("en", "hi")


class Quickstart:
    """The steps in order, and where their files are."""

    def __init__(self, output_dir: Path, overrides: list[str]) -> None:
        self.output_dir, self.overrides = output_dir, overrides
        self.run_dir = output_dir / "quickstart"
        self.data = self.run_dir / "data"
        self.corpus = self.data / "corpus"
        self.metrics = self.run_dir / "metrics.jsonl"
        self.model = self.run_dir / "model.nemo"
        self.untrained = self.run_dir / "untrained" / "model.nemo"
        self.started = time.monotonic()

    def run(self) -> None:
        """The whole chain."""
        self.prepare_data()
        self.evaluate_untrained()
        self.train()
        self.extract()
        completions = self.complete()
        self.evaluate_trained()
        self.summarize(completions)

    def prepare_data(self) -> None:
        """Corpus and benchmark, tokenizer, .bin/.idx."""
        self.title("1  write a bilingual corpus and its held-out benchmark")
        self.python("tools.make_corpus", "--out", self.corpus, "--people", 16)
        self.title("2  train a SentencePiece tokenizer")
        texts = [self.corpus / f"train.{language}.jsonl" for language in LANGUAGES]
        self.python(
            "tools.train_tokenizer",
            *texts,
            "--out",
            self.data / "tokenizer",
            "--vocab-size",
            2048,
        )
        self.title("3  tokenize to Megatron .bin/.idx")
        for part in ("train", "valid"):
            for language in LANGUAGES:
                self.python(
                    "tools.preprocess",
                    self.corpus / f"{part}.{language}.jsonl",
                    "--tokenizer",
                    self.data / "tokenizer.model",
                    "--out",
                    self.data / f"{part}_{language}",
                )

    def evaluate_untrained(self) -> None:
        """The benchmark before training: chance."""
        self.title("4  score the untrained model")
        self.python(
            "recipes.pretrain",
            "experiment=quickstart",
            f"output_dir={self.run_dir}",
            "name=untrained",
            f"data_dir={self.data}",
            "trainer.max_steps=0",
            *self.model_overrides(),
        )
        self.evaluate(self.untrained, "before")

    def model_overrides(self) -> list[str]:
        return [override for override in self.overrides if not override.startswith("trainer.")]

    def train(self) -> None:
        """Pretrains; the run is stopped halfway by a signal and resumed by the same command."""
        self.title("5  pretrain: stopped halfway, then resumed")
        command = self.command(
            "recipes.pretrain", "experiment=quickstart", f"output_dir={self.output_dir}", *self.overrides
        )
        show(command)
        # In its own process group, so that the signal also reaches data loader workers, as with Slurm.
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), start_new_session=True)
        try:
            stopped = self.stop_halfway(process)
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if stopped and code == STOPPED_BY_SIGNAL:
            self.python("recipes.pretrain", *command[3:])
        elif code:
            raise UserError(f"pretraining ended with exit code {code}; its own message is above")

    def stop_halfway(self, process: subprocess.Popen[bytes]) -> bool:
        """Waits for the middle of the run and sends its group SIGTERM; False if the run ended earlier."""
        if read_metrics(self.metrics):
            return False
        while process.poll() is None:
            records = [record for record in read_metrics(self.metrics) if "loss" in record]
            # A short run may record no step between its first and its last.
            if records and self.total_steps() // 2 <= records[-1]["step"] < self.total_steps():
                os.killpg(process.pid, signal.SIGTERM)
                return True
            time.sleep(0.2)
        return False

    def total_steps(self) -> int:
        import yaml

        config = yaml.safe_load((self.run_dir / "config.yaml").read_text())
        return int(config["trainer"]["max_steps"])

    def extract(self) -> None:
        """Unpacks model.nemo like the published model_extracted/."""
        self.title("6  extract model.nemo")
        directory = self.run_dir / "model_extracted"
        if directory.exists():
            print(f"{directory} is there")
        else:
            self.python("tools.extract", self.model, directory)

    def complete(self) -> list[dict[str, str]]:
        """One greedy completion per language through nemo_inference.sh."""
        self.title("7  complete a prompt in each language")
        prompts = [first_question(self.corpus / "benchmark" / f"{language}.jsonl") for language in LANGUAGES]
        command = [str(ROOT / "nemo_inference.sh"), str(self.model), *prompts]
        show(command)
        done = subprocess.run(
            command, env=environment() | {"greedy": "true"}, capture_output=True, text=True, encoding="utf-8"
        )
        if done.returncode:
            raise UserError(
                f"nemo_inference.sh ended with exit code {done.returncode}: {done.stderr.strip()}"
            )
        lines = [line for line in done.stdout.split("\n") if line]
        print("\n".join(lines))
        return [
            {"prompt": prompt, "completion": line.removeprefix(prompt)}
            for prompt, line in zip(prompts, lines, strict=True)
        ]

    def evaluate_trained(self) -> None:
        """The benchmark after training."""
        self.title("8  score the trained model")
        self.evaluate(self.model, "after")

    def evaluate(self, model: Path, name: str) -> None:
        """Runs the benchmark unless exactly these weights have been scored."""
        results, stamp = self.results(name), self.results(name).with_suffix(".sha256")
        digest = sha256_file(model)
        if results.exists() and stamp.exists() and stamp.read_text() == digest:
            print(f"{results} is there")
            return
        results.unlink(missing_ok=True)  # Other weights' results, which recipes.evaluate would not replace.
        self.python(
            "recipes.evaluate",
            f"gpt_model_file={model}",
            f"name={name}",
            "eval=minibench",
            f"minibench={self.corpus / 'benchmark'}",
            f"output={results}",
        )
        with atomic_write(stamp) as file:
            file.write(digest.encode())

    def results(self, name: str) -> Path:
        return self.run_dir / "evaluation" / f"{name}.json"

    def summarize(self, completions: list[dict[str, str]]) -> None:
        """The table before and after, summary.json and report.html."""
        from recipes.report import write_report
        from recipes.report.evaluation_result import read_results
        from recipes.report.evaluation_table import render

        before, after = (read_results(self.results(name)) for name in ("before", "after"))
        records = read_metrics(self.metrics)
        training = [record for record in records if "loss" in record]
        validation = [record for record in records if "valid.en.loss" in record][-1]
        rates = sorted(record["tokens_per_second"] for record in training[1:])
        resumed = [record["step"] for record in records if record.get("event") == "resumed"]
        summary = {
            "wall_s": round(time.monotonic() - self.started, 1),
            "hardware": hardware(),
            "loss": {
                "first": training[0]["loss"],
                "last": training[-1]["loss"],
                "valid": {language: validation[f"valid.{language}.loss"] for language in LANGUAGES},
            },
            "accuracy": {language: accuracy(before, after, language) for language in LANGUAGES},
            "resumed_at_step": resumed[-1] if resumed else None,
            "tokens_per_second": round(rates[len(rates) // 2]),
            "completions": completions,
        }
        self.keep_first_wall_time(summary)
        with atomic_write(self.run_dir / "summary.json") as file:
            file.write(json.dumps(summary, indent=2, ensure_ascii=False).encode())
        report = write_report(self.run_dir)
        self.title("done")
        print(render([before, after], labels=["before training", "after training"]))
        loss = summary["loss"]
        resumed_at = summary["resumed_at_step"]
        print(f"loss       {loss['first']:.3f} -> {loss['last']:.3f}; resumed at step {resumed_at}")
        print(f"speed      {summary['tokens_per_second']:,} tokens/s on {summary['hardware']}")
        print(f"wall time  {time.monotonic() - self.started:.0f} s")
        print(f"model      {self.model}\nsummary    {self.run_dir / 'summary.json'}\nreport     {report}")

    def keep_first_wall_time(self, summary: dict[str, Any]) -> None:
        """A second run repeats nothing, so the time of the run that did the work stays in the summary."""
        try:
            earlier = json.loads((self.run_dir / "summary.json").read_text())
        except (OSError, ValueError):
            return
        if earlier.get("loss") == summary["loss"]:
            summary["wall_s"] = max(summary["wall_s"], earlier.get("wall_s", 0))

    def command(self, module: str, *arguments: object) -> list[str]:
        return [sys.executable, "-m", module, *map(str, arguments)]

    def python(self, module: str, *arguments: object) -> None:
        """Shows and runs one of the project's commands."""
        command = self.command(module, *arguments)
        show(command)
        done = subprocess.run(command, cwd=ROOT, env=environment())
        if done.returncode:
            raise UserError(f"{module} ended with exit code {done.returncode}; its own message is above")

    def title(self, text: str) -> None:
        print(f"\n== {text}  ({time.monotonic() - self.started:.0f} s)", flush=True)


def environment() -> dict[str, str]:
    """This process's environment, with its interpreter for nemo_inference.sh."""
    return dict(os.environ) | {"PYTHON": sys.executable, "PYTHONUNBUFFERED": "1"}


def show(command: list[str]) -> None:
    """Prints a command as a user would type it."""
    print("$ " + shlex.join(["python" if part == sys.executable else part for part in command]), flush=True)


def first_question(path: Path) -> str:
    """The first benchmark question of a language."""
    with path.open(encoding="utf-8") as lines:
        return str(json.loads(next(lines))["question"])


def accuracy(before: Any, after: Any, language: str) -> dict[str, Any]:
    """One language's entry of the summary; shares between 0 and 1."""
    task = f"minibench_{language}"
    scores = [result.tasks[task].scores["acc,none"] for result in (before, after)]
    return {
        "before": scores[0].value,
        "after": scores[1].value,
        "stderr": scores[1].stderr,
        "n": after.tasks[task].n,
        "constant_answer": after.tasks[task].constant_answer,
    }


def hardware() -> str:
    """The GPUs that the run could see, or the CPU of this machine."""
    gpus: list[str] = []
    if os.environ.get("CUDA_VISIBLE_DEVICES") != "":  # Which nvidia-smi does not look at.
        with contextlib.suppress(OSError):  # No such program, or an unreadable directory on the PATH.
            gpus = subprocess.run(
                ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True
            ).stdout.splitlines()
    if gpus:
        return f"{len(gpus)} x {gpus[0]}"
    name = platform.processor() or platform.machine()
    try:
        models = [
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
        ]
        name = models[0].split(":", 1)[1].strip()
    except (OSError, IndexError):
        pass
    return f"{len(os.sched_getaffinity(0))} cores of {name}"


def main() -> None:
    """Parses the command line and runs the chain."""
    parser = Arguments("tools.quickstart", __doc__.splitlines()[0], EXAMPLES)
    parser.add_argument("--output-dir", type=Path, default=ROOT / "outputs", help="default: outputs/")
    parser.add_argument(
        "overrides", nargs="*", help="settings for recipes.pretrain, e.g. trainer.max_steps=500"
    )
    arguments = parser.parse_args()
    Quickstart(arguments.output_dir.resolve(), arguments.overrides).run()


if __name__ == "__main__":
    run_tool(main)
