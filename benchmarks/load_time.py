"""How long a stored model takes to load: ours from a .nemo, transformers' of the same weights."""

from __future__ import annotations

from pathlib import Path

from benchmarks.door import measure
from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.counts import count

EXAMPLES = """\
examples:
  python -m benchmarks.load_time model=lumen_128m
  python -m benchmarks.load_time --cold --turns 2 --data DIR model=param1_2p9b

Random weights are written in both forms, in bf16, and loaded in turns: from the file to a model that can
compute, every page of it touched. Files are in the page cache, unless --cold takes them out of it first.
Prints each program's best time and their ratio.
"""


def main() -> None:
    """Parses the command line, then loads the engine and measures."""
    parser = Arguments("benchmarks.load_time", __doc__, EXAMPLES)
    parser.add_argument("--turns", type=count, default=3, help="loads by each (default %(default)s)")
    parser.add_argument("--cold", action="store_true", help="read from the disk, not from the page cache")
    parser.add_argument("--precision", default="auto", help="auto, bf16 or fp32 (default %(default)s)")
    parser.add_argument(
        "--data", type=Path, help="directory for the model's files, kept; by default a temporary one"
    )
    measure(parser)


if __name__ == "__main__":
    run_tool(main)
