"""Documents that are scored per second: the project's lm-eval model against lm-eval's own HFLM."""

from __future__ import annotations

from benchmarks.door import measure
from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.counts import count

EXAMPLES = """\
examples:
  python -m benchmarks.scoring model=param1_2p9b
  python -m benchmarks.scoring model=tiny --documents 8 --length 64

Both get the same requests, ids of a context and of a continuation, as a multiple-choice task makes them. The
weights are random, and drawn for each: answers are compared in tests/evaluation/test_lm_parity.py.
"""


def main() -> None:
    """Parses the command line, then loads the engine and measures."""
    parser = Arguments("benchmarks.scoring", __doc__, EXAMPLES)
    parser.add_argument("--documents", type=count, default=256, help="default %(default)s")
    parser.add_argument("--length", type=count, default=256, help="tokens of a context (default %(default)s)")
    parser.add_argument(
        "--batch-tokens", type=count, default=16384, help="default %(default)s, evaluation's own"
    )
    parser.add_argument("--precision", default="auto", help="auto, bf16 or fp32 (default %(default)s)")
    measure(parser)


if __name__ == "__main__":
    run_tool(main)
