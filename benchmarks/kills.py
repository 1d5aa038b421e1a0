"""SIGKILL at random moments of one run: the same command must repeat the undisturbed run, bit for bit."""

from __future__ import annotations

from benchmarks.door import THE_QUICK_START, add_run_options, measure
from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.counts import count

EXAMPLES = """\
examples:
  python -m benchmarks.kills                                 # 100 kills of the quick start's model
  python -m benchmarks.kills --kills 20 --processes 2
  python -m benchmarks.kills --kills 5 --steps 60 optim=muon model=nano_hindi_25m model.vocab_size=auto
  python -m benchmarks.kills --data /tmp/kills               # again: goes on where it was interrupted

Trains once undisturbed and once with kills of all processes: while it starts, trains, or saves in the
background. Prints for each kill when it was, what was running, how many steps were lost, and how many records
of steps and validations, repeated ones too, have been equal to the undisturbed run's; in the end the last
checkpoint's tensors are compared. Ends with exit code 1 at the first difference. The schedule follows from
--seed; what a kill hits also depends on the machine.
"""


def main() -> None:
    """Parses the command line, then kills."""
    parser = Arguments("benchmarks.kills", __doc__, EXAMPLES)
    parser.add_argument("--kills", type=count, default=100, help="how many (default %(default)s)")
    parser.add_argument("--steps", type=count, help="steps of the run (default: five per kill, and 20)")
    add_run_options(parser, every=4, processes=1)
    measure(parser, settings=THE_QUICK_START)


if __name__ == "__main__":
    run_tool(main)
