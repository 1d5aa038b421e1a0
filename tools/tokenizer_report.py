"""Compare tokenizers on texts: lengths, coverage, exactness, and what they split."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.console import note
from recipes.counts import byte_count

EXAMPLES = """\
examples:
  python -m tools.tokenizer_report tokenizers/en_hi_16k.model --text hi.jsonl en.jsonl

  # several side by side, also as a page with plots
  python -m tools.tokenizer_report tok16k.model sarvam-1/ gemma/ --text hi.jsonl en.jsonl --out report.html

A TOKENIZER is a SentencePiece .model, a Hugging Face directory or its tokenizer.json. A text is named after
its file: hi.jsonl, train.hi.jsonl and hi.jsonl.zst are "hi". The probes (Hinglish, numbers, code, nukta, ...)
are measured too.
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Arguments("tools.tokenizer_report", __doc__, EXAMPLES)
    parser.add_argument("tokenizers", nargs="+", metavar="TOKENIZER")
    parser.add_argument(
        "--text",
        nargs="+",
        required=True,
        type=Path,
        metavar="FILE",
        help=".jsonl or text, also .gz, .zst",
    )
    parser.add_argument(
        "--max-bytes",
        type=byte_count,
        default="2MB",
        metavar="N",
        help="read the first N bytes of text of each file, 0 for all (default %(default)s)",
    )
    parser.add_argument(
        "--text-key", default="text", metavar="KEY", help="the text's key (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="write a page with plots as well")
    return parser.parse_args(arguments)


def main() -> None:
    """Parse the command line, measure and print."""
    options = parse()
    from recipes.checks import not_negative
    from recipes.data.tokenizer import load_tokenizer
    from recipes.data.tokenizer_report import compare
    from recipes.data.tokenizer_report.text_table import as_text
    from recipes.data.tokenizer_report.tokenizer_page import write_tokenizer_page

    not_negative("--max-bytes", options.max_bytes)
    comparison = compare(
        [load_tokenizer(path) for path in options.tokenizers],
        options.text,
        max_bytes=options.max_bytes or None,
        text_key=options.text_key,
        log=note,
    )
    if options.json:
        print(json.dumps(comparison.as_dict(), ensure_ascii=False, indent=2))
    else:
        print(as_text(comparison))
    if options.out is not None:
        write_tokenizer_page(comparison, options.out)
        note(f"wrote {options.out}")


if __name__ == "__main__":
    run_tool(main)
