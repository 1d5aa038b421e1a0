"""What command lines answer, and which packages they have imported by then."""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

ENGINE = {"torch", "nemo", "lightning", "megatron", "transformers"}


class Spied(NamedTuple):
    code: int
    out: str
    err: str
    imported: set[str]
    """Top-level packages."""


def spy(*commands: list[str], preload: str | None = None) -> list[Spied]:
    """Runs each command, a module and its arguments as after ``python -m``, in a process of its own.

    The processes are forks of one. It imports ``preload`` before, for commands that all begin with it.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, *filter(None, [preload])],
        cwd=Path(__file__).resolve().parents[2],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=True,
    )
    return [Spied(code, out, err, set(imported)) for code, out, err, imported in json.loads(done.stdout)]


def main() -> None:
    if sys.argv[1:]:
        __import__(sys.argv[1])
    results = []
    for command in json.load(sys.stdin):
        with tempfile.TemporaryDirectory() as directory:
            child = os.fork()
            if child == 0:
                _run(Path(directory), *command)
            _, status = os.waitpid(child, 0)
            out, err, imported = (Path(directory, name).read_text("utf-8") for name in ("1", "2", "imported"))
        results.append((os.waitstatus_to_exitcode(status), out, err, imported.split()))
    json.dump(results, sys.stdout)


def _run(directory: Path, module: str, *arguments: str) -> None:
    for descriptor in (1, 2):
        os.dup2(os.open(directory / str(descriptor), os.O_WRONLY | os.O_CREAT), descriptor)
    code: object = 0
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    imported = {name.partition(".")[0] for name in sys.modules}
    (directory / "imported").write_text(" ".join(imported))
    os._exit(code if isinstance(code, int) else code is not None)


if __name__ == "__main__":
    main()
