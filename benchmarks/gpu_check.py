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
from pathlib import Path
from typing import Any

from benchmarks.door import TURN
from benchmarks.gpu_check_parts import PARTS, Part, chosen
from recipes.arguments import Arguments
from recipes.cli import INTERRUPTED, run_tool
from recipes.errors import UserError

EXAMPLES = """\
examples:
  python -m benchmarks.gpu_check --out DIR
  python -m benchmarks.gpu_check --out DIR --only param1,tests --nanochat PATH
  python -m benchmarks.gpu_check --out DIR --tiny            # the same parts, small, on any machine

Independent parts, the most important first, each in a process of its own with a time limit: one that fails or
takes too long stops no other. With four cores or more the next part loads its modules while one measures.
What each has measured is appended to DIR/gpu_check.jsonl and to the table DIR/gpu_check.md when it ends, with
what it had measured before it failed; its output is in DIR/NAME.log. Ctrl-C leaves what is done. Needs no
network.
"""

ROOT = Path(__file__).resolve().parents[1]
TOTAL_S = 415.0
"""Parts that have not begun by then are left out, and a part's limit is no longer than what is left."""
LEAST_S = 10.0
"""With less left, no part begins."""
CORES_TO_SHARE = 4
"""From so many on, the next part's process imports what it needs while a part measures."""
FAILURES = "PARAM_RECIPES_TEST_FAILURES"
"""Where tests/cuda/conftest.py writes down each failure as it comes: pytest itself does at the end alone."""
PATIENCE = 6.0
"""How much longer a part may take with --tiny, which is for small machines on which others work too."""


class Check:
    """Runs parts one after the other and writes down what they say."""

    def __init__(self, out: Path, *, nanochat: Path | None, tiny: bool, total_s: float) -> None:
        self.out, self.nanochat, self.tiny = out.resolve(), nanochat, tiny
        self.deadline = time.monotonic() + total_s
        self.early: dict[str, subprocess.Popen[bytes]] = {}
        """Processes of parts that wait for their turn."""
        (self.out / "data").mkdir(parents=True, exist_ok=True)
        self.results = self.out / "gpu_check.jsonl"
        self.table = self.out / "gpu_check.md"
        if not self.table.exists():
            self.table.write_text("| part | how it ended | seconds | figures |\n|---|---|---|---|\n", "utf-8")

    def run(self, parts: list[Part]) -> bool:
        """Whether all that could run came to their ends."""
        ended = []
        try:
            for number, part in enumerate(parts):
                after = [later for later in parts[number + 1 :] if not self._lacks(later)]
                compiled = after if part.name == "tests" and not self.tiny else []
                with self._compiling([later for later in compiled if later.compiles_long]):
                    ended.append(self._run(part, next((each for each in after if each.waits_for_turn), None)))
        finally:
            for process in self.early.values():
                _end_group(process)
        return all(ended)

    def _lacks(self, part: Part) -> bool:
        return part.needs is not None and getattr(self, part.needs) is None

    def _run(self, part: Part, early: Part | None) -> bool:
        """Runs it, while ``early`` gets ready."""
        left = self.deadline - time.monotonic()
        if self._lacks(part):
            return self._write(part, f"skipped: needs --{part.needs}", 0.0, [])
        if left < LEAST_S:
            return self._write(part, "left out: no time", 0.0, [])
        figures = self._figures(part)
        figures.unlink(missing_ok=True)
        started = time.monotonic()
        try:
            with self._begun(part) as process:
                if early is not None and early.name not in self.early and _cores() >= CORES_TO_SHARE:
                    self.early[early.name] = self._start(early, self._figures(early), turn=True)
                ended = _ended(process, min(part.limit_s * (PATIENCE if self.tiny else 1.0), left))
        except KeyboardInterrupt:
            self._write(part, "interrupted", time.monotonic() - started, _lines(figures))
            raise
        return self._write(part, ended, time.monotonic() - started, _lines(figures))

    def _figures(self, part: Part) -> Path:
        return self.out / f"{part.name}.json"

    @contextlib.contextmanager
    def _begun(self, part: Part) -> Iterator[subprocess.Popen[bytes]]:
        """A process that measures: one that got ready early, whose turn it is now, or a new one."""
        process = self.early.pop(part.name, None) or self._start(part, self._figures(part))
        try:
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError), process.stdin as turn:
                    turn.write(b"\n")
            yield process
        finally:
            _end_group(process)

    @contextlib.contextmanager
    def _compiling(self, parts: list[Part]) -> Iterator[None]:
        """Runs the parts, shortened, for their compiled kernels alone; ends what is not done."""
        with contextlib.ExitStack() as stack:
            for part in parts:
                figures = self.out / f"{part.name}.compiling.json"
                process = self._start(part, figures, "--steps", "1", "--warm-up", "1")
                stack.callback(_end_group, process)
            yield

    def _start(self, part: Part, figures: Path, *more: str, turn: bool = False) -> subprocess.Popen[bytes]:
        """Starts the part's process, in a group of its own, which is to be ended at the end.

        Args:
            turn: it imports what it needs, and measures when a line comes on its standard input.
        """
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
            **({TURN: "1"} if turn else {}),
            **part.environment,
        }
        if part.name == "tests":
            line += _several_processes()
            environment[FAILURES] = str(self.out / "tests.failed")
            (self.out / "tests.failed").unlink(missing_ok=True)
        with (self.out / f"{figures.stem}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, *line],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE if turn else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # So that nothing of it lives on: workers, its own subprocesses.
            )

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


def _ended(process: subprocess.Popen[bytes], limit_s: float) -> str:
    """Waits for a part's process; how it ended."""
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        _say_where(process)
        return f"stopped after {limit_s:.0f} s"
    return "done" if code == 0 else f"failed: exit code {code}"


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


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _several_processes() -> list[str]:
    """pytest's options for several processes and time limits, if they are installed here."""
    found = []
    if importlib.util.find_spec("xdist") is not None:
        processes = max(1, min(8, _cores() // 2))
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
