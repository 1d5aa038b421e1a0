"""Command line for the run report: `python -m tools.report outputs/NAME`."""

from __future__ import annotations

import argparse
from pathlib import Path

from recipes.cli import run_tool
from recipes.report import write_report

_EXAMPLES = """\
examples:
  python -m tools.report outputs/lumen_128m
  python -m tools.report outputs/lumen_128m --out lumen.html

The page is one file without scripts or external parts: it can be mailed or attached as it is.
It may be made while the run goes on, and made again later.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.report",
        description="Make one HTML page of a run: losses, learning rate, throughput, scores, completions.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="directory with a metrics.jsonl in it")
    parser.add_argument("--out", type=Path, metavar="FILE", help="output (default: RUN_DIR/report.html)")
    args = parser.parse_args()
    print(write_report(args.run_dir, args.out))


if __name__ == "__main__":
    run_tool(main)
