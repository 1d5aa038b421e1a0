"""Command line for the report of runs: `python -m tools.report outputs/NAME`."""

from __future__ import annotations

from pathlib import Path

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.report import write_comparison, write_report

_EXAMPLES = """\
examples:
  python -m tools.report outputs/lumen_128m
  python -m tools.report outputs/lumen_128m --out lumen.html

  # several runs on one page, with their curves over each other
  python -m tools.report outputs/lumen_128m outputs/lumen_256m --out both.html

The page is a single file without scripts or external parts, to be mailed or attached as it is.
It can be made during a run and again later.
"""


def main() -> None:
    parser = Arguments(
        "tools.report",
        "Make one HTML page of a run: losses, learning rate, throughput, scores, completions. "
        "Of several runs: their curves over each other, and a table of their final figures.",
        _EXAMPLES,
    )
    parser.add_argument(
        "run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="directory with a metrics.jsonl in it"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="output (default: RUN_DIR/report.html; of several runs comparison.html in the first RUN_DIR)",
    )
    args = parser.parse_args()
    if len(args.run_dirs) == 1:
        print(write_report(args.run_dirs[0], args.out))
    else:
        print(write_comparison(args.run_dirs, args.out))


if __name__ == "__main__":
    run_tool(main)
