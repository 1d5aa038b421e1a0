"""Attention in windows, of separate documents and of a chunk of a sequence, against full causal attention."""

from __future__ import annotations

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.console import quiet_libraries
from recipes.counts import count

EXAMPLES = """\
examples:
  python -m benchmarks.attention
  python -m benchmarks.attention --turns 20 --threads 2

Forward and backward, candidates in turns in one process, so that changes in machine load affect all equally.
Prints the ratio of each candidate's best time to the first one's. The choices in recipes/model/causal.py are
based on these for the CPU; on a GPU the same command measures what runs there.
"""


def main() -> None:
    """Parses the command line, then loads the engine and measures."""
    parser = Arguments("benchmarks.attention", __doc__, EXAMPLES)
    parser.add_argument(
        "--turns", type=count, default=7, help="turns of each candidate (default %(default)s)"
    )
    parser.add_argument("--threads", type=count, default=1, help="on the CPU (default %(default)s)")
    options = parser.parse_args()
    quiet_libraries()  # Before they are imported: some warn as they load.
    from benchmarks.measure.attention import run

    run(options)


if __name__ == "__main__":
    run_tool(main)
