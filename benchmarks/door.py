"""What the command lines of benchmarks have in common."""

from __future__ import annotations

import importlib

from benchmarks.records import add_json_option
from recipes.arguments import Arguments
from recipes.console import quiet_libraries


def measure(parser: Arguments, *, settings: bool = True) -> None:
    """Parses the command line, then loads the engine and measures.

    The measuring module has the door's name in benchmarks.measure; its ``run`` gets the options.

    Args:
        parser: with the benchmark's own options; ``--json`` is added.
        settings: whether it takes settings of recipes.pretrain, too.
    """
    add_json_option(parser)
    if settings:
        parser.add_argument("overrides", nargs="*", help="settings of recipes.pretrain")
    options = parser.parse_intermixed_args()
    quiet_libraries()  # Before they are imported: some warn as they load.
    name = parser.prog.rpartition(".")[2]
    importlib.import_module(f"benchmarks.measure.{name}").run(options)
