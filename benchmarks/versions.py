"""Which versions and kernels this machine's runs use."""

from __future__ import annotations

from benchmarks.records import add_json_option
from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.console import quiet_libraries

EXAMPLES = """\
examples:
  python -m benchmarks.versions
"""


def main() -> None:
    """Parses the command line, then loads the engine and measures."""
    parser = Arguments("benchmarks.versions", __doc__, EXAMPLES)
    add_json_option(parser)
    options = parser.parse_intermixed_args()
    quiet_libraries()  # Before they are imported: some warn as they load.
    from benchmarks.measure.versions import run

    run(options)


if __name__ == "__main__":
    run_tool(main)
