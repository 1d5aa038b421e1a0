"""Download a corpus as JSONL shards, with its provenance in a manifest."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.console import note
from recipes.counts import byte_count, count

if TYPE_CHECKING:
    from recipes.data.download.options import Options

EXAMPLES = """\
sources: {sources}, local

examples:
  # show what would be downloaded, from where and how much; nothing is written
  python -m tools.download wikipedia_hi --out data/wikipedia_hi --dry-run

  # the first 2 GB of text; run again after an interruption, or with a larger budget, to continue
  python -m tools.download sangraha_hi --out data/sangraha_hi --max-bytes 2GB

  # from copies of the hub's files in MIRROR/<owner>/<name>/, offline
  python -m tools.download wikipedia_hi --out data/wikipedia_hi --mirror /shared/mirror

  # your own files
  python -m tools.download local 'books/*.txt' notes.jsonl.gz --out data/own

writes DIR/<source>-00000.jsonl ... and DIR/manifest.json. A budget ends with the document that reaches it.
HF_ENDPOINT names another hub. docs/download-data.md has more.
"""


def parse(arguments: Sequence[str] | None = None) -> "Options":
    """The command line."""
    from recipes.data.download.corpora import SOURCES
    from recipes.data.download.options import DEFAULT_SHARD_BYTES, Options

    parser = Arguments("tools.download", __doc__, EXAMPLES.format(sources=", ".join(SOURCES)))
    parser.add_argument("source", metavar="SOURCE", help="one of the sources below")
    parser.add_argument(
        "inputs", nargs="*", metavar="FILE", help="local: .jsonl, .parquet, .txt files or globs"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to write")
    budget = parser.add_argument_group("how much (default: everything)")
    budget.add_argument("--max-bytes", type=byte_count, metavar="N", help="bytes of UTF-8 text")
    budget.add_argument("--max-tokens", type=count, metavar="N", help="tokens, without BOS and EOS")
    budget.add_argument("--tokenizer", type=Path, metavar="MODEL", help="counts the tokens")
    source = parser.add_argument_group("where from")
    source.add_argument(
        "--mirror", type=Path, metavar="DIR", help="read copies of the files, not the network"
    )
    source.add_argument("--revision", metavar="COMMIT", help="of the hub's repository (default: the newest)")
    source.add_argument("--files", metavar="GLOB", help="only these files of the repository")
    local = parser.add_argument_group("local files")
    local.add_argument("--text-key", metavar="KEY", help="key or column of the text (default text)")
    local.add_argument("--id-key", metavar="KEY", help="key or column of the id (default: file and row)")
    local.add_argument(
        "--txt-documents",
        choices=("file", "blank-line"),
        help="a document is a whole .txt file (default) or ends at a blank line",
    )
    shards = parser.add_argument_group("shards")
    shards.add_argument(
        "--shard-bytes",
        type=byte_count,
        default=DEFAULT_SHARD_BYTES,
        metavar="N",
        help="their size before compression (default 256MB)",
    )
    shards.add_argument("--compress", choices=("gz", "zst"), help="default: no compression")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done")
    parser.add_argument("--force", action="store_true", help="remove DIR's download and start again")
    return Options(**vars(parser.parse_intermixed_args(arguments)))


def main() -> None:
    """Parse the command line and download."""
    options = parse()
    from recipes.data.download.download import download

    download(options, log=note, progress=True)


if __name__ == "__main__":
    run_tool(main)
