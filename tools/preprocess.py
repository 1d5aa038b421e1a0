"""Tokenize JSONL (plain, .gz, .zst or .bz2) into Megatron's PREFIX.bin and PREFIX.idx."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.console import note
from recipes.counts import count
from recipes.errors import UserError

EXAMPLES = """\
examples:
  python -m tools.preprocess data/train.hi.jsonl --tokenizer tokenizers/en_hi_16k.model --out data/train_hi

  # several inputs become one data set, in this order; eight processes
  python -m tools.preprocess shards/*.jsonl.zst --tokenizer tok.model --out data/web --workers 8

  # each input becomes a data set of its own, which training reads as one: data.train.web.path=data/web
  python -m tools.preprocess shards/ --tokenizer tok.model --out-dir data/web --workers 8

  # the same on 16 nodes; a job array's task takes its part by itself, --shard 3/16 does it by hand
  sbatch --array=0-15 --cpus-per-task=32 --wrap \
    "python -m tools.preprocess shards/ --tokenizer tok.model --out-dir data/web --workers 32"

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
    "--partitions": "here --workers N works on all inputs, and --shard I/N shares them among nodes",
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Arguments("tools.preprocess", __doc__, EXAMPLES, FOREIGN)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT.jsonl",
        help="a document per line; or a glob, or a directory with all .jsonl files below it",
    )
    parser.add_argument(
        "--tokenizer", required=True, metavar="PATH", help="SentencePiece .model, or Hugging Face directory"
    )
    out = parser.add_mutually_exclusive_group(required=True)
    out.add_argument("--out", metavar="PREFIX", help="where to write, without suffix")
    out.add_argument("--out-dir", metavar="DIR", help="instead: a prefix there for every input")
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="with --out-dir: part I of N, I from 0 (default: all; in a Slurm job array, the task's part)",
    )
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
    how: dict[str, Any] = {
        "workers": options.workers,
        "text_key": options.text_key,
        "append_bos": options.append_bos,
        "append_eod": not options.no_append_eod,
        "force": options.force,
        "log": note,
        "progress": True,
    }
    if options.out_dir is not None:
        from recipes.data.tokenize.many_files import parse_shard, preprocess_many

        shard = parse_shard(options.shard, dict(os.environ))
        preprocess_many(options.inputs, options.out_dir, options.tokenizer, shard=shard, **how)
        return
    if options.shard is not None:
        raise UserError(f"--shard {options.shard}: one data set is made in one place; use --out-dir")
    from recipes.data.text.input_files import json_lines_files
    from recipes.data.tokenize.preprocess import preprocess

    inputs = [str(file) for pattern in options.inputs for file in json_lines_files(pattern)]
    preprocess(inputs, options.tokenizer, options.out, **how)


# The guard is needed: worker processes import this module again.
if __name__ == "__main__":
    run_tool(main)
