"""Generate a small English-Hindi corpus about an invented world, with a benchmark of held-out questions."""

import argparse
from collections.abc import Sequence

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.counts import byte_count, count

EXAMPLES = """\
examples:
  # 4 MB of training text, enough for the quickstart
  python -m tools.make_corpus --out data/corpus

  # another 20 MB about the same world, for the same benchmark
  python -m tools.make_corpus --out data/more --bytes 20MB --seed 2

  # another, smaller world
  python -m tools.make_corpus --out data/other --world-seed 7 --people 16

writes train.{en,hi}.jsonl, valid.{en,hi}.jsonl ({"text", "lang"}), benchmark/{en,hi}.jsonl
({"id", "kind", "question", "choices", "answer"}) and, last, manifest.json (arguments, counts, checksums).
All text is generated. Running it again with the same arguments does nothing.
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Arguments("tools.make_corpus", __doc__, EXAMPLES)
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to write")
    parser.add_argument(
        "--bytes",
        type=byte_count,
        default="4MB",
        metavar="N",
        help="training text, both languages together (default %(default)s)",
    )
    parser.add_argument(
        "--seed", type=count, default=1, metavar="N", help="which documents are written (default %(default)s)"
    )
    parser.add_argument(
        "--world-seed",
        type=count,
        default=1,
        metavar="N",
        help="which facts are true, and so which questions are asked (default %(default)s)",
    )
    parser.add_argument(
        "--people", type=count, default=32, metavar="N", help="16, 32 or 48 people (default %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite what DIR holds")
    return parser.parse_args(arguments)


def main() -> None:
    """Parse the command line and write the corpus."""
    options = parse()
    from recipes.data.corpus.write import make_corpus

    manifest, written = make_corpus(
        options.out,
        size=options.bytes,
        seed=options.seed,
        world_seed=options.world_seed,
        people=options.people,
        force=options.force,
    )
    if not written:
        print(f"{options.out} already holds this corpus: nothing to do")
        return
    print(f"{options.out}: {manifest['facts']} facts")
    for name, entry in manifest["files"].items():
        print(f"  {name:20} {entry['rows']:7,} rows {entry['bytes']:12,} bytes")


if __name__ == "__main__":
    run_tool(main)
