"""Tokenize JSONL (plain, .gz, .zst or .bz2) into Megatron's PREFIX.bin and PREFIX.idx."""

import argparse
import sys
from collections.abc import Sequence

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.counts import count

EXAMPLES = """\
examples:
  python -m tools.preprocess data/train.hi.jsonl --tokenizer tokenizers/en_hi_16k.model --out data/train_hi

  # several inputs become one data set, in this order; eight processes
  python -m tools.preprocess shards/*.jsonl.zst --tokenizer tok.model --out data/web --workers 8

writes PREFIX.bin, PREFIX.idx and, last, PREFIX.json (counts, settings, checksums), byte for byte as
Megatron-LM would. Each document ends with EOS. Until all is done and read back, the work is kept in
PREFIX.partial/: after a run was killed, the same command continues there. Once done, it does nothing.
"""

# Megatron-LM's and NeMo's preprocessing scripts.
FOREIGN = {
    "--input": "inputs are given without a flag: data/train.jsonl",
    "--output-prefix": "here it is --out PREFIX",
    "--tokenizer-model": "here it is --tokenizer PATH",
    "--tokenizer-type": "what kind it is follows from --tokenizer PATH",
    "--tokenizer-library": "what kind it is follows from --tokenizer PATH",
    "--vocab-file": "here it is --tokenizer PATH: a SentencePiece model or a directory with tokenizer.json",
    "--json-keys": "here it is --text-key KEY",
    "--append-eod": "it is always done; --no-append-eod turns it off",
    "--dataset-impl": "what is written is always memory-mapped (.bin and .idx)",
    "--partitions": "here several inputs become one data set: --workers N works on all of them",
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Arguments("tools.preprocess", __doc__, EXAMPLES, FOREIGN)
    parser.add_argument("inputs", nargs="+", metavar="INPUT.jsonl", help="a document per line")
    parser.add_argument(
        "--tokenizer", required=True, metavar="PATH", help="SentencePiece .model, or Hugging Face directory"
    )
    parser.add_argument("--out", required=True, metavar="PREFIX", help="where to write, without suffix")
    parser.add_argument(
        "--workers", type=count, default=1, metavar="N", help="processes (default %(default)s)"
    )
    parser.add_argument(
        "--text-key", default="text", metavar="KEY", help="the text's key (default %(default)s)"
    )
    parser.add_argument("--append-bos", action="store_true", help="begin each document with BOS")
    parser.add_argument("--no-append-eod", action="store_true", help="do not end each document with EOS")
    parser.add_argument("--force", action="store_true", help="replace PREFIX and discard unfinished work")
    return parser.parse_args(arguments)


def main() -> None:
    """Parse the command line and preprocess."""
    options = parse()
    from recipes.data.tokenize.preprocess import preprocess

    preprocess(
        options.inputs,
        options.tokenizer,
        options.out,
        workers=options.workers,
        text_key=options.text_key,
        append_bos=options.append_bos,
        append_eod=not options.no_append_eod,
        force=options.force,
        log=lambda message: print(message, file=sys.stderr),
        progress=True,
    )


# The guard is needed: worker processes import this module again.
if __name__ == "__main__":
    run_tool(main)
