"""The cost of a checkpoint for training: saves that training waits for against saves in the background."""

from __future__ import annotations

from pathlib import Path

from benchmarks.door import THE_QUICK_START, measure
from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.counts import count

EXAMPLES = """\
examples:
  python -m benchmarks.checkpoint_save                     # the quick start's model
  python -m benchmarks.checkpoint_save model=lumen_128m data.seq_length=256

The same run in turns with trainer.checkpoint.async_save false and true. Prints the step time without a save,
how long a save holds up training, also as a share of the time from its beginning to its publication, the step
time while a save is written in the background against that without, and the total time lost per save: every
step from the save's beginning to its publication, minus the same number of steps without a save. Saves that
are not written when the next is due are left out, and counted.
"""


def main() -> None:
    """Parses the command line, then loads the engine and measures."""
    parser = Arguments("benchmarks.checkpoint_save", __doc__, EXAMPLES)
    parser.add_argument("--every", type=count, default=40, help="steps between saves (default %(default)s)")
    parser.add_argument(
        "--saves", type=count, default=4, help="measured saves per turn (default %(default)s)"
    )
    parser.add_argument("--turns", type=count, default=2, help="turns of each (default %(default)s)")
    parser.add_argument(
        "--data", type=Path, help="directory for corpus and runs, kept; by default a temporary one"
    )
    measure(parser, settings=THE_QUICK_START)


if __name__ == "__main__":
    run_tool(main)
