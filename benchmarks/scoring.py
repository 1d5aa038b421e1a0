"""Documents scored and answered by evaluation and by lm-eval's own HFLM, on the same weights."""

from __future__ import annotations

from pathlib import Path

from benchmarks.door import measure
from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.counts import count
from recipes.errors import UserError

EXAMPLES = """\
examples:
  python -m benchmarks.scoring --out outputs/scoring model=lumen_128m --precision fp32
  python -m benchmarks.scoring --precision bf16 --documents 64 --batches 16 model=param1_2p9b
  python -m benchmarks.scoring --documents 8 --slices 1 --trial 4 --batches 1,4 model=tiny

Each side is a process of its own, and they take turns, a slice of the documents each, so that what else the
machine does hits both. HFLM's sizes of batches are tried on some documents first; the best is then compared
on all of them, beside the one that batch_size="auto" finds. Answers are compared too.

Documents are random tokens, as long and alike as those of the benchmarks: 4 choices of several tokens (ARC,
HellaSwag), 4 to 8 choices after the six questions of TruthfulQA, 4 letters (MMLU), texts of up to 24 tokens
(TriviaQA). The seconds that count are the processor's, on a GPU the clock's. With --out an interrupted
measurement goes on.
"""
KINDS = ("choices", "truthfulqa", "letters", "texts")


def main() -> None:
    """Parses the command line, then loads the engine and measures."""
    parser = Arguments("benchmarks.scoring", __doc__, EXAMPLES)
    parser.add_argument("--kinds", type=_kinds, default=KINDS, help=f"default {','.join(KINDS)}")
    parser.add_argument("--documents", type=count, default=500, help="of each kind (default %(default)s)")
    parser.add_argument(
        "--after", type=count, default=0, help="documents to leave out: they were measured before"
    )
    parser.add_argument("--slices", type=count, default=4, help="turns of each side (default %(default)s)")
    parser.add_argument(
        "--trial", type=count, default=32, help="documents to try sizes of batches on (default %(default)s)"
    )
    parser.add_argument(
        "--batches", type=_sizes, default=(1, 4, 16, 32, 64), help="HFLM's (default 1,4,16,32,64)"
    )
    parser.add_argument("--auto", action="store_true", help='measure HFLM with batch_size="auto" too')
    parser.add_argument("--processes", type=count, help="also our own processes that share the documents")
    parser.add_argument("--threads", type=count, default=1, help="of each process (default %(default)s)")
    parser.add_argument(
        "--batch-tokens", type=count, default=16384, help="default %(default)s, evaluation's own"
    )
    parser.add_argument("--precision", default="auto", help="auto, bf16 or fp32 (default %(default)s)")
    parser.add_argument(
        "--out", type=Path, help="directory for the weights and what is measured, kept; by default temporary"
    )
    measure(parser)


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(","))
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"--kinds {text}: there is no kind {kind!r}; there are {', '.join(KINDS)}")
    return kinds


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(count(size) for size in text.split(","))


if __name__ == "__main__":
    run_tool(main)
