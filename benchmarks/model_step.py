"""Training step of a described model against transformers' Llama or nanochat's own model code."""

from __future__ import annotations

from benchmarks.door import A_MODEL, measure
from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.counts import count

EXAMPLES = """\
examples:
  python -m benchmarks.model_step --against transformers model=lumen_128m model.num_layers=4
  python -m benchmarks.model_step --against nanochat --checkout PATH model=nano_hindi_25m optim=muon

Both train a model of the same shapes with the same kind of optimizer on the same random tokens in one
process, in turns. Prints the ratio of the median step times, ours over theirs; 1.0 or less is the aim. On a
GPU also tokens per second, the share of the peak FLOP/s, and the peak memory. --compile compiles the other
model with torch.compile, as nanochat trains it; ours is compiled as trainer.compile says. --profile shows
where the time of a step of each goes, by kind of kernel. The nanochat checkout
(github.com/karpathy/nanochat, January 2026) is imported from the given path; nothing of it is part of this
project.
"""


def main() -> None:
    """Parses the command line, then loads the engine and measures."""
    parser = Arguments("benchmarks.model_step", __doc__, EXAMPLES)
    parser.add_argument("--against", choices=("transformers", "nanochat", "nothing"), required=True)
    parser.add_argument("--checkout", help="directory of the nanochat checkout")
    parser.add_argument("--compile", action="store_true", help="torch.compile the other model")
    parser.add_argument(
        "--steps", type=count, default=10, help="measured steps per turn (default %(default)s)"
    )
    parser.add_argument("--warm-up", type=count, default=3, help="steps before them (default %(default)s)")
    parser.add_argument("--turns", type=count, default=3, help="turns of each (default %(default)s)")
    parser.add_argument(
        "--micro-batches",
        type=count,
        nargs="+",
        metavar="N",
        help="measure steps of so many micro-batches in turn, not of trainer.global_batch_size's",
    )
    parser.add_argument("--profile", action="store_true", help="show where the time of a step goes")
    measure(parser, settings=(*A_MODEL, "trainer.max_steps=100", "data.seq_length=512"))


if __name__ == "__main__":
    run_tool(main)
