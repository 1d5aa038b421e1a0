"""What many clients of a server get together, against what one gets alone."""

from __future__ import annotations

from benchmarks.door import measure
from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.counts import count

EXAMPLES = """\
examples:
  python -m benchmarks.server_load model=lumen_128m
  python -m benchmarks.server_load --clients 64 --new 256 model=param1_2p9b

Writes the described model with random weights, serves it (python -m recipes.generate server=true) and sends
streamed greedy completions, each client one after another: first a single client, then all, then a single one
again. Prints the tokens per second of all together, the median time to a first token, and the ratio.
"""


def main() -> None:
    """Parses the command line, then loads the engine and measures."""
    parser = Arguments("benchmarks.server_load", __doc__, EXAMPLES)
    parser.add_argument("--clients", type=count, default=16, help="at a time (default %(default)s)")
    parser.add_argument("--requests", type=count, default=3, help="of each client (default %(default)s)")
    parser.add_argument("--prompt", type=count, default=64, help="tokens of a prompt (default %(default)s)")
    parser.add_argument("--new", type=count, default=64, help="tokens to generate (default %(default)s)")
    parser.add_argument("--precision", default="auto", help="auto, bf16 or fp32 (default %(default)s)")
    measure(parser)


if __name__ == "__main__":
    run_tool(main)
