"""Training step through the recipes (Lightning, data loader, metrics) against a bare megatron-core loop."""

from __future__ import annotations

from pathlib import Path

from benchmarks.door import THE_QUICK_START, measure
from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.counts import count

EXAMPLES = """\
examples:
  python -m benchmarks.step_time                          # the tiny model, batch 8 x 128
  python -m benchmarks.step_time model=llama_10m data.seq_length=512
  python -m benchmarks.step_time --paired model=llama_10m model.num_layers=12 model.hidden_size=384 \\
      model.ffn_hidden_size=1152 'logger=[tensorboard,wandb]' wandb.offline=true trainer.num_threads=1

Both train the same model on batches of the same shape in one process, in turns, so that changes in machine
load affect both equally. Prints the ratio of their median step times; below 1.02 is the aim. Both replay CUDA
graphs if trainer.cuda_graph says so. Time is taken every tenth step, when the device is done: launches that
wait for nothing say little about a step.

--paired takes them in turns step by step, inside one run of --steps steps: whatever else the machine does
hits both. It prints the ratio of their times over as many steps as trainer.log_every_n_steps says, so that
each has one logged step (the median of these ratios), and that of the processor's seconds. For CPUs.
"""


def main() -> None:
    """Parses the command line, then loads the engine and measures."""
    parser = Arguments("benchmarks.step_time", __doc__, EXAMPLES)
    parser.add_argument("--steps", type=count, default=100, help="steps per turn (default %(default)s)")
    parser.add_argument("--paired", action="store_true", help="in turns step by step, in one process")
    parser.add_argument("--turns", type=count, default=3, help="turns of each (default %(default)s)")
    parser.add_argument(
        "--data", type=Path, help="directory for corpus and runs, kept; by default a temporary one"
    )
    measure(parser, settings=THE_QUICK_START)


if __name__ == "__main__":
    run_tool(main)
