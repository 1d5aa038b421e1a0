"""What the command lines of benchmarks have in common."""

from __future__ import annotations

import importlib
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.records import add_json_option
from recipes.arguments import Arguments, first_command
from recipes.console import quiet_libraries
from recipes.counts import count
from recipes.errors import UserError

A_MODEL = ("name=benchmark", "trainer.max_steps=1", "data.seq_length=128", "dry_run=true")
THE_QUICK_START = ("experiment=quickstart",)
TURN = "PARAM_RECIPES_BENCHMARK_TURN"
"""In the environment: a benchmark that has imported what it needs waits for a line on its standard input."""


def measure(
    parser: Arguments,
    *,
    settings: Sequence[str] | None = A_MODEL,
    check: Callable[[Namespace], None] | None = None,
) -> None:
    """Parses the command line, checks its settings, then loads the engine and measures.

    The measuring module has the door's name in benchmarks.measure; its ``run`` gets the options, when it is
    its turn (`TURN`).

    Args:
        parser: with the benchmark's own options; ``--json`` is added.
        settings: of recipes.pretrain, before those of the command line in ``overrides``; empty: it checks
            them itself; None: it takes none.
        check: of options and settings, in place of the check of settings of a run.

    Raises:
        UserError: a setting is wrong, or the model is not named.
    """
    add_json_option(parser)
    if settings is not None:
        parser.add_argument("overrides", nargs="*", help="settings of recipes.pretrain")
    options = parser.parse_intermixed_args()
    if settings:
        if settings != THE_QUICK_START and not options.overrides:
            raise UserError(f"no model; for example: {first_command(parser.epilog or '')}")
        options.overrides = [*settings, *options.overrides]
        if check is None:
            check_run(options.overrides)
    if check is not None:
        check(options)
    quiet_libraries()  # Before they are imported: some warn as they load.
    name = parser.prog.rpartition(".")[2]
    module = importlib.import_module(f"benchmarks.measure.{name}")
    # Not for the processes that it starts itself.
    if os.environ.pop(TURN, None) and not sys.stdin.readline():
        return
    module.run(options)


def add_run_options(parser: Arguments, *, every: int, processes: int) -> None:
    """Of benchmarks that disturb one run by a schedule, with their defaults."""
    parser.add_argument(
        "--every", type=count, default=every, help="steps between saves (default %(default)s)"
    )
    parser.add_argument(
        "--processes", type=count, default=processes, help=f"of the run (default {processes})"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the schedule (default %(default)s)")
    parser.add_argument(
        "--data", type=Path, help="directory for corpus and runs, kept; by default a temporary one"
    )


def check_run(settings: list[str]) -> None:
    """Whether the processes suit the layout, the run itself checks; so it does what a tokenizer decides.

    Raises:
        UserError: a setting does not exist, or has a wrong value.
    """
    from recipes.config.hydra_app import compose
    from recipes.config.validate import validate_pretrain
    from recipes.families.model_config import AUTO

    config = compose("pretrain", settings)
    parallel = config.parallel
    size = (
        parallel.tensor_model_parallel_size
        * parallel.pipeline_model_parallel_size
        * parallel.context_parallel_size
    )
    if config.model.vocab_size != AUTO:
        validate_pretrain(replace(config, dry_run=True, parallel=replace(parallel, world_size=size)))
