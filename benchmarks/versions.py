"""Which versions and kernels this machine's runs use."""

from __future__ import annotations

from benchmarks.door import measure
from recipes.arguments import Arguments
from recipes.cli import run_tool

EXAMPLES = """\
examples:
  python -m benchmarks.versions
"""


def main() -> None:
    """Parses the command line, then loads the engine and measures."""
    parser = Arguments("benchmarks.versions", __doc__, EXAMPLES)
    measure(parser, settings=None)


if __name__ == "__main__":
    run_tool(main)
