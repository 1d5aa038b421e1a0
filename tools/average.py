"""The mean of a run's last checkpoints: ``python -m tools.average RUN --last 3``."""

from __future__ import annotations

import time
from pathlib import Path

from recipes.arguments import Arguments, work_begins
from recipes.checkpoint.formats.recognise import check_new, check_stored
from recipes.checkpoint.save.manifest import finished_checkpoints
from recipes.cli import run_tool
from recipes.console import Progress
from recipes.counts import count, counted
from recipes.errors import UserError
from recipes.files import make_directory
from recipes.run_directory import RunDirectory

EXAMPLES = """examples:
  python -m tools.average outputs/quickstart --last 3
  python -m tools.average outputs/quickstart --last 3 --weights ema
  python -m tools.average one.nemo another.nemo --out mean --dtype fp32

The result is a checkpoint of weights, which everything reads: completion, evaluation, tools.convert and
init_from. It is in RUN/averages/, named after its steps, unless --out names a new directory. All must be
the same model, with the same tokenizer. Neither a GPU nor memory for the whole model is needed.

Exit code 0: written; 2: not written.
"""


def main() -> None:
    """Averages, and says where the result is."""
    parser = Arguments("tools.average", "Average the weights of several checkpoints.", EXAMPLES)
    parser.add_argument("paths", type=Path, nargs="+", metavar="RUN", help="a run with --last, or models")
    parser.add_argument("--last", type=count, metavar="K", help="the run's newest K checkpoints")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new directory")
    parser.add_argument("--dtype", default="keep", choices=("keep", "bf16", "fp32"), help="of the weights")
    parser.add_argument(
        "--weights", default="trained", choices=("trained", "ema"), help="ema: the checkpoints' averages"
    )
    options = parser.parse_args()
    paths, target = options.paths, options.out
    for path in paths:
        check_stored(path)
    if options.last is not None:
        paths = _newest(paths, options.last)
        if target is None:
            target = options.paths[0] / "averages" / _name(paths, options.weights, options.dtype)
    if len(paths) < 2:
        raise UserError(f"{paths[0]}: one model is its own mean; give a run and --last K, or more models")
    if target is None:
        raise UserError("--out: name a new directory; only with --last there is a default")
    if options.out is not None or target.exists():
        check_new(target)
    work_begins()
    from recipes.checkpoint.average import average

    if options.out is None:
        make_directory(target.parent)

    started = time.monotonic()
    with Progress() as progress:
        average(paths, target, options.dtype, options.weights, progress.update_to)
    print(f"wrote  {target}, the mean of {len(paths)}, in {time.monotonic() - started:,.1f} s")


def _name(paths: list[Path], weights: str, dtype: str) -> str:
    """Of a mean beside others of the same run."""
    steps = f"{paths[0].name}_to_{paths[-1].name.removeprefix('step_')}"
    return "_".join([steps, *(["ema"] if weights == "ema" else []), *([dtype] if dtype != "keep" else [])])


def _newest(paths: list[Path], wanted: int) -> list[Path]:
    """The newest checkpoints of the run, oldest first."""
    if len(paths) > 1:
        raise UserError(f"--last={wanted}: belongs to one run, not to {len(paths)}")
    checkpoints = RunDirectory(paths[0]).checkpoints
    if not checkpoints.is_dir():
        raise UserError(f"--last={wanted}: {paths[0]} is no run; leave --last out, and name several models")
    found = finished_checkpoints(checkpoints)
    if len(found) < 2:
        raise UserError(
            f"--last={wanted}: {paths[0]} keeps {counted(len(found), 'checkpoint')}, a mean needs two; save "
            "more often, or raise trainer.checkpoint.keep_last"
        )
    if not 2 <= wanted <= len(found):
        least = "2 to " if len(found) > 2 else ""
        raise UserError(
            f"--last={wanted}: must be {least}{len(found)}, as many as {paths[0]} has checkpoints"
        )
    return found[-wanted:]


if __name__ == "__main__":
    run_tool(main)
