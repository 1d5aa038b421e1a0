"""Tokenize conversations for supervised fine-tuning: JSONL to PREFIX.bin, .idx, .answers and .json."""

from __future__ import annotations

import argparse

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.console import quiet_libraries, say

EXAMPLES = """\
examples:
  python -m tools.prepare_chats chats.jsonl --tokenizer data/tokenizer.model --out data/chats
  python -m tools.prepare_chats chats/ --tokenizer hf_model/ --template my_template.jinja --out data/chats

A line holds "messages" (role, content), ShareGPT's "conversations" (from, value), or "prompt" and
"completion". Train with data.conversations=true data.reset_attention_mask=true; see docs/fine-tune.md.
"""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Arguments("tools.prepare_chats", __doc__, EXAMPLES)
    parser.add_argument("inputs", nargs="+", metavar="CHATS.jsonl", help="or a glob, or a directory of them")
    parser.add_argument(
        "--tokenizer", required=True, metavar="PATH", help="SentencePiece .model, or Hugging Face directory"
    )
    parser.add_argument("--out", required=True, metavar="PREFIX", help="where to write, without suffix")
    parser.add_argument(
        "--template",
        metavar="FILE.jinja",
        help="chat template (default: the tokenizer directory's own, else User: ... Assistant: ...)",
    )
    parser.add_argument("--force", action="store_true", help="replace PREFIX")
    return parser.parse_args()


def main() -> None:
    """Parse the command line and prepare."""
    options = parse()
    quiet_libraries()  # Before transformers is imported.
    from recipes.data.chat.prepare import announce, prepare_chats
    from recipes.data.chat.template_file import template_text
    from recipes.data.text.input_files import json_lines_files

    inputs = [file for pattern in options.inputs for file in json_lines_files(pattern)]
    template = template_text(options.template, options.tokenizer)
    prepared = prepare_chats(inputs, options.tokenizer, options.out, template=template, force=options.force)
    if prepared is None:
        say(f"{options.out}: already done")
    else:
        announce(prepared, options.out)


if __name__ == "__main__":
    run_tool(main)
