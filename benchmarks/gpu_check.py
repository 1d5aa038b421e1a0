"""Everything that is to be known about this project on a GPU, in one visit of seven minutes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.arguments import Arguments
from recipes.cli import INTERRUPTED, run_tool
from recipes.errors import UserError

EXAMPLES = """\
examples:
  python -m benchmarks.gpu_check --out DIR
  python -m benchmarks.gpu_check --out DIR --only param1,tests --nanochat PATH
  python -m benchmarks.gpu_check --out DIR --tiny            # the same parts, small, on any machine

Independent parts, the most important first, each in a process of its own with a time limit: one that fails or
takes too long stops no other. What each has measured is appended to DIR/gpu_check.jsonl and to the table
DIR/gpu_check.md when it ends, with what it had measured before it failed; its output is in DIR/NAME.log.
Ctrl-C leaves what is done. Needs no network.
"""

ROOT = Path(__file__).resolve().parents[1]
TOTAL_S = 415.0
"""Parts that have not begun by then are left out, and a part's limit is no longer than what is left."""
LEAST_S = 10.0
"""With less left, no part begins."""
FAILURES = "PARAM_RECIPES_TEST_FAILURES"
"""Where tests/cuda/conftest.py writes down each failure as it comes: pytest itself does at the end alone."""
PATIENCE = 6.0
"""How much longer a part may take with --tiny, which is for small machines on which others work too."""


@dataclass(frozen=True)
class Part:
    """A process and how long it may take; {json}, {data} and {nanochat} stand for paths."""

    name: str
    limit_s: float
    command: list[str]
    """Arguments of Python."""
    tiny: list[str] | None = None
    """The same with --tiny; None: as it is."""
    environment: dict[str, str] = field(default_factory=dict)
    needs: str | None = None
    """An option without which the part is skipped."""
    compiles_long: bool = False
    """Whether it is run beside the tests too, for the compiler to find its kernels ready afterwards."""


def benchmark(module: str, *arguments: str) -> list[str]:
    return ["-m", f"benchmarks.{module}", "--json", "{json}", *arguments]


SHORT = ("--steps", "2", "--warm-up", "1", "--turns", "1", "data.seq_length=32")
TWO_EACH = ("trainer.micro_batch_size=2", "trainer.global_batch_size=4")
NANOCHAT = ("--against", "nanochat", "--compile", "--checkout", "{nanochat}")

PARTS = (
    Part("versions", 25, benchmark("versions")),
    Part(
        "param1",
        100,
        benchmark(
            *("model_step", "--against", "nothing", "--profile", "--micro-batches", "2", "4"),
            *("--steps", "5", "--warm-up", "2", "--turns", "1"),
            *("model=param1_2p9b", "data.seq_length=2048", "trainer.precision=bf16"),
            *("trainer.micro_batch_size=4", "trainer.global_batch_size=16"),
        ),
        benchmark(
            *("model_step", "--against", "nothing", "--profile", "--micro-batches", "1", "2"),
            *(*SHORT, *TWO_EACH),
        ),
    ),
    Part(
        "tests",
        120,
        ["-m", "pytest", "-m", "cuda", "tests/cuda", "-p", "no:cacheprovider", "--tb=short", "-rfE"],
        environment={"PARAM_RECIPES_TEST_CUDA": "1"},
    ),
    Part(
        "quickstart",
        100,
        benchmark(
            *("quickstart_chain", "--data", "{data}", "trainer.max_steps=400", "trainer.limit_val_batches=5"),
        ),
        benchmark(
            *("quickstart_chain", "--data", "{data}", "trainer.max_steps=4", "trainer.limit_val_batches=1"),
            *("trainer.log_every_n_steps=1", "optim.lr_warmup_steps=1"),
        ),
    ),
    Part(
        "completion",
        70,
        benchmark("completion", "--against", "transformers", "--new", "48", "model=param1_2p9b"),
        benchmark(
            *("completion", "model=tiny", "--against", "transformers"),
            *("--prompt", "8", "--new", "16", "--batches", "1"),
        ),
    ),
    Part(
        "nano",
        150,
        benchmark(
            *("model_step", *NANOCHAT, "model=nano_hindi_25m", "optim=muon", "data.seq_length=1024"),
            *("trainer.micro_batch_size=32", "trainer.global_batch_size=64"),
            *("--steps", "10", "--warm-up", "3", "--turns", "1"),
        ),
        benchmark(
            *("model_step", *NANOCHAT, "model=tiny_nano_hindi", "optim=muon", *SHORT, *TWO_EACH),
        ),
        needs="nanochat",
        compiles_long=True,
    ),
    Part(
        "lumen",
        110,
        benchmark(
            *("model_step", "--against", "transformers", "--compile", "model=lumen_128m"),
            # transformers' Llama drops attention weights alone.
            *("model.hidden_dropout=0", "model.attention_dropout=0"),
            *("data.seq_length=2048", "trainer.micro_batch_size=12", "trainer.global_batch_size=12"),
            *("--steps", "10", "--warm-up", "3", "--turns", "1"),
        ),
        benchmark("model_step", "--against", "transformers", *SHORT, *TWO_EACH),
        compiles_long=True,
    ),
    Part(
        "trainer",
        45,
        benchmark("step_time", "--data", "{data}", "--steps", "100", "--turns", "2"),
        benchmark("step_time", "--data", "{data}", "--steps", "20", "--turns", "1", "data.seq_length=32"),
    ),
    Part(
        "checkpoint",
        80,
        benchmark(
            *("checkpoint_save", "--data", "{data}", "--every", "40", "--saves", "2", "--turns", "1"),
            *("model=lumen_128m", "data.seq_length=1024", "trainer.compile=false"),
            *("trainer.micro_batch_size=16", "trainer.global_batch_size=64"),
        ),
        benchmark(
            *("checkpoint_save", "--data", "{data}", "--every", "10", "--saves", "2", "--turns", "1"),
            "data.seq_length=32",
        ),
    ),
    Part(
        "scoring",
        100,
        benchmark(
            *("scoring", "--kinds", "choices,letters,texts", "--documents", "128", "--slices", "1"),
            *("--batches", "32", "--precision", "bf16", "model=param1_2p9b"),
        ),
        benchmark("scoring", "--documents", "4", "--slices", "1", "--batches", "2", "model=tiny"),
    ),
    Part(
        "loading",
        80,
        benchmark("load_time", "--turns", "2", "--precision", "bf16", "model=param1_2p9b"),
        benchmark("load_time", "model=tiny", "--turns", "1"),
    ),
)


def chosen(only: str | None) -> list[Part]:
    """The parts that --only names, in the order of importance.

    Raises:
        UserError: there is no such part.
    """
    names = [part.name for part in PARTS] if only is None else only.split(",")
    known = ", ".join(part.name for part in PARTS)
    for name in names:
        if name not in known.split(", "):
            raise UserError(f"--only {only}: no part is called {name!r}; there are {known}")
    return [part for part in PARTS if part.name in names]


class Check:
    """Runs parts one after the other and writes down what they say."""

    def __init__(self, out: Path, *, nanochat: Path | None, tiny: bool, total_s: float) -> None:
        self.out, self.nanochat, self.tiny = out.resolve(), nanochat, tiny
        self.deadline = time.monotonic() + total_s
        (self.out / "data").mkdir(parents=True, exist_ok=True)
        self.results = self.out / "gpu_check.jsonl"
        self.table = self.out / "gpu_check.md"
        if not self.table.exists():
            self.table.write_text("| part | how it ended | seconds | figures |\n|---|---|---|---|\n", "utf-8")

    def run(self, parts: list[Part]) -> bool:
        """Whether all that could run came to their ends."""
        ended = []
        for number, part in enumerate(parts):
            after = parts[number + 1 :] if part.name == "tests" and not self.tiny else []
            with self._compiling([later for later in after if later.compiles_long]):
                ended.append(self._run(part))
        return all(ended)

    def _lacks(self, part: Part) -> bool:
        return part.needs is not None and getattr(self, part.needs) is None

    def _run(self, part: Part) -> bool:
        left = self.deadline - time.monotonic()
        if self._lacks(part):
            return self._write(part, f"skipped: needs --{part.needs}", 0.0, [])
        if left < LEAST_S:
            return self._write(part, "left out: no time", 0.0, [])
        figures = self.out / f"{part.name}.json"
        figures.unlink(missing_ok=True)
        started = time.monotonic()
        try:
            ended = self._ended(part, figures, min(part.limit_s * (PATIENCE if self.tiny else 1.0), left))
        except KeyboardInterrupt:
            self._write(part, "interrupted", time.monotonic() - started, _lines(figures))
            raise
        return self._write(part, ended, time.monotonic() - started, _lines(figures))

    def _ended(self, part: Part, figures: Path, limit_s: float) -> str:
        """Runs the part; how it ended."""
        with self._started(part, figures) as process:
            try:
                code = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                _say_where(process)
                return f"stopped after {limit_s:.0f} s"
        return "done" if code == 0 else f"failed: exit code {code}"

    @contextlib.contextmanager
    def _compiling(self, parts: list[Part]) -> Iterator[None]:
        """Runs the parts, shortened, for their compiled kernels alone; ends what is not done."""
        with contextlib.ExitStack() as stack:
            for part in parts:
                if self._lacks(part):
                    continue
                figures = self.out / f"{part.name}.compiling.json"
                stack.enter_context(self._started(part, figures, "--steps", "1", "--warm-up", "1"))
            yield

    @contextlib.contextmanager
    def _started(self, part: Part, figures: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        """The part's process in a group of its own, which is ended at the end."""
        paths = {"{json}": figures, "{data}": self.out / "data", "{nanochat}": self.nanochat}
        line = part.tiny if self.tiny and part.tiny is not None else part.command
        line = [str(paths.get(argument, argument)) for argument in line] + list(more)
        environment = dict(os.environ) | {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",  # See _say_where().
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(self.out / "compiled"),
            **part.environment,
        }
        if part.name == "tests":
            line += _several_processes()
            environment[FAILURES] = str(self.out / "tests.failed")
            (self.out / "tests.failed").unlink(missing_ok=True)
        with (self.out / f"{figures.stem}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *line],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # So that nothing of it lives on: workers, its own subprocesses.
            )
            try:
                yield process
            finally:
                _end_group(process)

    def _write(self, part: Part, ended: str, seconds: float, figures: list[dict[str, Any]]) -> bool:
        if part.name == "tests" and seconds:
            figures = [_counts(self.out / "tests.log", self.out / "tests.failed")]
        sound = ended == "done" or ended.startswith("skipped")
        said = [] if sound else [f"`{line}`" for line in _last_lines(self.out / f"{part.name}.log", seconds)]
        with self.results.open("a", encoding="utf-8") as file:
            outcome = {"part": part.name, "ended": ended, "seconds": round(seconds, 1), "figures": figures}
            file.write(json.dumps(outcome, ensure_ascii=False) + "\n")
        cells = [part.name, ended, f"{seconds:.0f}", "<br>".join([*map(_in_words, figures), *said])]
        row = "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
        with self.table.open("a", encoding="utf-8") as file:
            file.write(row + "\n")
        print(row.replace("<br>", "\n    "), flush=True)
        return sound


def _say_where(process: subprocess.Popen[bytes]) -> None:
    """Makes Python write to the part's log where each of its threads stands, and end."""
    resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))
    process.send_signal(signal.SIGABRT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5.0)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of the process's own group, and waits for the process."""
    for number, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def _several_processes() -> list[str]:
    """pytest's options for several processes and time limits, if they are installed here."""
    found = []
    if importlib.util.find_spec("xdist") is not None:
        processes = max(1, min(8, len(os.sched_getaffinity(0)) // 2))
        found += ["--numprocesses", str(processes), "--dist", "worksteal"]
    if importlib.util.find_spec("pytest_timeout") is not None:
        found += ["--timeout", "80"]
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that a process may have been stopped in the middle of writing."""
    found = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def _last_lines(path: Path, seconds: float, number: int = 3) -> Iterator[str]:
    """What a failed part said last."""
    if not seconds or not path.exists():
        return
    lines = [line.strip() for line in path.read_text("utf-8", "replace").splitlines() if line.strip()]
    yield from (line[:200].replace("`", "'") for line in lines[-number:])


def _counts(log: Path, failures: Path) -> dict[str, Any]:
    """Outcomes of pytest's tests, and the names of those that failed."""
    lines = log.read_text("utf-8", "replace").splitlines()
    said = failures.read_text("utf-8", "replace").splitlines() if failures.exists() else []
    failed = [line.split(maxsplit=1)[1] for line in said if line.startswith("FAILED ")]
    totals = [
        line.strip("= ") for line in lines if " in " in line and ("passed" in line or "skipped" in line)
    ]
    return {"who": "pytest", "result": totals[-1] if totals else "no summary", "failed": failed}


def _in_words(figures: dict[str, Any]) -> str:
    """``who: key value, ...`` without what has no value."""
    words = ", ".join(
        f"{key} {_number(value)}"
        for key, value in figures.items()
        if key != "who" and value is not None and value != []
    )
    return f"{figures.get('who', '')}: {words}"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def main() -> int:
    """Runs the parts; 1 if any failed."""
    limits = "parts and their limits: " + ", ".join(f"{part.name} {part.limit_s:.0f} s" for part in PARTS)
    parser = Arguments("benchmarks.gpu_check", __doc__, f"{EXAMPLES}\n{limits}")
    parser.add_argument(
        "--out", type=Path, required=True, help="directory for results, logs and a small corpus"
    )
    parser.add_argument("--only", metavar="NAMES", help="only these parts, with commas between")
    parser.add_argument("--nanochat", type=Path, metavar="PATH", help="a checkout of nanochat")
    parser.add_argument("--tiny", action="store_true", help="small models, few steps: for the CPU")
    parser.add_argument(
        "--total",
        type=float,
        default=TOTAL_S,
        metavar="S",
        help="seconds for all parts (default %(default)s)",
    )
    options = parser.parse_args()
    parts = chosen(options.only)
    if options.nanochat is not None and not (options.nanochat / "nanochat" / "gpt.py").is_file():
        raise UserError(f"--nanochat {options.nanochat}: no nanochat/gpt.py in it")
    nanochat = options.nanochat.resolve() if options.nanochat else None
    check = Check(options.out, nanochat=nanochat, tiny=options.tiny, total_s=options.total)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # From timeout(1), say: as Ctrl-C.
    try:
        sound = check.run(parts)
    except KeyboardInterrupt:
        return INTERRUPTED
    print(f"results: {check.results}\ntable:   {check.table}")
    return 0 if sound else 1


if __name__ == "__main__":
    run_tool(main)
