"""Look at conversations before fine-tuning: lengths, what is dropped, duplicates, text of benchmarks."""

from __future__ import annotations

import argparse

from recipes.arguments import Arguments
from recipes.checks import refuse
from recipes.cli import run_tool
from recipes.console import quiet_libraries
from recipes.counts import count

LONGEST = 1 << 20
"""Tokens in a sample; nobody trains on longer ones."""
EXAMPLES = """\
examples:
  python -m tools.check_chat_data chats.jsonl --tokenizer data/tokenizer.model --seq-length 2048
  python -m tools.check_chat_data chats/ --tokenizer hf_model/ --mirror benchmarks/ --json

Nothing is written. --mirror compares with the benchmarks that tools.prefetch_benchmarks has fetched, as
tools.clean does: 13 words in a row that are in a test or validation split.
"""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Arguments("tools.check_chat_data", __doc__, EXAMPLES)
    parser.add_argument("inputs", nargs="+", metavar="CHATS.jsonl", help="or a glob, or a directory of them")
    parser.add_argument(
        "--tokenizer", required=True, metavar="PATH", help="SentencePiece .model, or Hugging Face directory"
    )
    parser.add_argument("--template", metavar="FILE.jinja", help="as for tools.prepare_chats")
    parser.add_argument(
        "--seq-length", type=count, default=2048, help="data.seq_length (default %(default)s)"
    )
    parser.add_argument("--mirror", metavar="DIR", help="benchmarks to compare with")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def main() -> None:
    """Parse the command line and report."""
    options = parse()
    quiet_libraries()  # Before transformers is imported.
    from recipes.data.chat.check import check_chats, report
    from recipes.data.chat.template import Template
    from recipes.data.chat.template_file import template_text
    from recipes.data.text.input_files import json_lines_files
    from recipes.data.tokenizer.load import load_tokenizer

    if not 1 <= options.seq_length <= LONGEST:
        refuse("--seq-length", options.seq_length, f"must lie between 1 and {LONGEST:,}")
    leak = None
    if options.mirror is not None:
        from recipes.config.clean_schema import DecontaminationConfig
        from recipes.data.clean.contamination import BenchmarkText

        leak = BenchmarkText(DecontaminationConfig(mirror=options.mirror)).table_of
    files = [file for pattern in options.inputs for file in json_lines_files(pattern)]
    text = template_text(options.template, options.tokenizer)
    template = Template(text, load_tokenizer(options.tokenizer))
    found = check_chats(files, template, options.seq_length, leak)
    print(found.to_json() if options.json else report(found))


if __name__ == "__main__":
    run_tool(main)
