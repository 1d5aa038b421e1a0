"""Completion speed of a described model with random weights, against what the GPU's memory allows."""

from __future__ import annotations

from benchmarks.door import measure
from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.counts import count
from recipes.inference.fast_reads import prepare_for_fast_reads

EXAMPLES = """\
examples:
  python -m benchmarks.completion model=param1_2p9b                         # batches of 1 and 16
  python -m benchmarks.completion model=lumen_128m --against transformers --batches 1

Every new token reads all weights of the matrix products once, whatever the batch, and the keys and values of
what was read before: their bytes over the memory's bandwidth are the least time that a token can take.
Prompts have 128 tokens, as many are generated; time to the first token and time per token are told apart.
transformers' Llama, with its own cache and with a static one, is measured after ours has been freed.
"""


def main() -> None:
    """Parses the command line, then loads the engine and measures."""
    parser = Arguments("benchmarks.completion", __doc__, EXAMPLES)
    parser.add_argument("--against", choices=("nothing", "transformers"), default="nothing")
    parser.add_argument("--batches", type=count, nargs="+", default=[1, 16], metavar="N")
    parser.add_argument("--prompt", type=count, default=128, help="tokens of a prompt (default %(default)s)")
    parser.add_argument("--new", type=count, default=128, help="tokens to generate (default %(default)s)")
    parser.add_argument("--warm-up", type=count, default=1, help="generations before (default %(default)s)")
    parser.add_argument("--precision", default="auto", help="auto, bf16 or fp32 (default %(default)s)")
    prepare_for_fast_reads()  # As recipes.generate does, before torch is imported.
    measure(parser)


if __name__ == "__main__":
    run_tool(main)
