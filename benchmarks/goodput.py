"""A run to which everything happens that a run must survive: how much of its time is useful, what is lost."""

from __future__ import annotations

from benchmarks.door import THE_QUICK_START, add_run_options, measure
from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.counts import count

EXAMPLES = """\
examples:
  python -m benchmarks.goodput                               # each kind of fault once, two processes
  python -m benchmarks.goodput --faults 27 --seed 2 --json goodput.jsonl
  python -m benchmarks.goodput --faults 3 --processes 1 model=nano_hindi_25m model.vocab_size=auto

Trains once undisturbed, then with faults at random steps: a killed rank, an exception, a rank that hangs,
SIGTERM, a full disk, a damaged checkpoint, a slow rank, NaN gradients, a loss spike. After what ends the run,
the same command is started again, as the Slurm job does it; after a full disk, which ends the job, too.
Prints for each fault how long it took to be noticed, to train again, and to train a step that had not been
trained before; and goodput: useful steps times the median time of a step, over the time of the whole run.

Exit code 1 if a recovery took longer than --aim, if steps were lost from before the last checkpoint, or if
losses or the last checkpoint's tensors differ in a bit from the undisturbed run's, which skips the same step
and leaves out the same samples.
"""


def main() -> None:
    """Parses the command line, then trains."""
    parser = Arguments("benchmarks.goodput", __doc__, EXAMPLES)
    parser.add_argument("--faults", type=count, default=9, help="how many (default %(default)s, all kinds)")
    parser.add_argument("--steps", type=count, help="steps of the run (default: as few as hold the faults)")
    add_run_options(parser, every=5, processes=2)
    parser.add_argument(
        "--aim", type=float, default=60.0, metavar="SECONDS", help="for each recovery (default %(default)g)"
    )
    measure(parser, settings=THE_QUICK_START)


if __name__ == "__main__":
    run_tool(main)
