"""Train a tokenizer on JSONL or text files: SentencePiece BPE or unigram, or byte-level BPE."""

import argparse
from collections.abc import Sequence

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.console import note
from recipes.counts import byte_count, count

EXAMPLES = """\
examples:
  # one vocabulary for both languages, equal amounts of text of each
  python -m tools.train_tokenizer data/en.jsonl data/hi.jsonl --weights 1 1 --out tokenizers/en_hi_16k

  # 128,000 tokens from 2 GB of text, of which Hindi gets more than its share
  python -m tools.train_tokenizer en.jsonl.zst hi.jsonl.zst --temperature 3 --out tok128k \\
      --vocab-size 128k --max-bytes 2GB

  # byte-level BPE as a Hugging Face directory, which keeps Hindi words whole
  python -m tools.train_tokenizer en.jsonl hi.jsonl --type byte_bpe --vocab-size 32k --out tok_bytes

bpe and unigram write PREFIX.model, PREFIX.vocab and PREFIX.json (settings, inputs and checksums); byte_bpe
writes the directory PREFIX with tokenizer.json, tokenizer_config.json and training.json
"""

# SentencePiece's spm_train.
FOREIGN = {
    "--input": "texts are given without a flag: hi.jsonl en.jsonl",
    "--model_prefix": "here it is --out PREFIX",
    "--vocab_size": "here it is --vocab-size N",
    "--model_type": "here it is --type unigram, bpe or byte_bpe",
    "--input_sentence_size": "here the text is limited in bytes: --max-bytes N",
}
TYPES = ("bpe", "unigram", "byte_bpe")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Arguments("tools.train_tokenizer", __doc__, EXAMPLES, FOREIGN)
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help=".jsonl (a text per line) or plain text, also .gz or .zst"
    )
    parser.add_argument("--out", required=True, metavar="PREFIX", help="where to write, without suffix")
    parser.add_argument("--vocab-size", type=count, default=16000, help="tokens in all (default 16,000)")
    parser.add_argument("--type", choices=TYPES, default="bpe", help="default %(default)s")
    parser.add_argument(
        "--max-bytes",
        type=byte_count,
        default="100MB",
        metavar="N",
        help="sample at most N bytes of text in all, 0 for everything (default %(default)s); bounds memory",
    )
    parser.add_argument(
        "--weights", type=float, nargs="+", metavar="W", help="the inputs' shares of the text, one per input"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="shares proportional to size^(1/T), one input per language; instead of --weights",
    )
    parser.add_argument(
        "--text-key", default="text", metavar="KEY", help="the text's key (default %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing tokenizer")
    return parser.parse_args(arguments)


def main() -> None:
    """Parse the command line and train."""
    options = parse()
    from recipes.data.tokenizer.train import train_tokenizer

    train_tokenizer(
        options.inputs,
        options.out,
        vocab_size=options.vocab_size,
        model_type=options.type,
        max_bytes=options.max_bytes or None,
        weights=options.weights,
        temperature=options.temperature,
        text_key=options.text_key,
        force=options.force,
        log=note,
    )


if __name__ == "__main__":
    run_tool(main)
