"""Unpack a .nemo: ``python -m tools.extract model.nemo model_extracted/``."""

from __future__ import annotations

from pathlib import Path

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.console import Progress
from recipes.errors import UserError

EXAMPLES = """examples:
  python -m tools.extract outputs/quickstart/model.nemo model_extracted
  python -m tools.extract model.nemo model_extracted && ./nemo_inference.sh model_extracted "भारत में"

The directory, which must not exist yet, is accepted wherever a .nemo is.
"""


def main() -> None:
    """Unpacks into a new directory; nothing is written anywhere else, whatever the archive says."""
    parser = Arguments("tools.extract", "Unpack a .nemo archive into a new directory.", EXAMPLES)
    parser.add_argument("archive", type=Path, help="a .nemo file")
    parser.add_argument("directory", type=Path, help="a new directory")
    arguments = parser.parse_args()
    from recipes.checkpoint.formats.archive import extract_archive
    from recipes.files import path_errors

    with path_errors(arguments.archive):
        if not arguments.archive.is_file():
            raise UserError(f"{arguments.archive}: no such file")
    with Progress() as progress:
        extract_archive(arguments.archive, arguments.directory, progress.update_to)
    print(f"extracted {arguments.archive} to {arguments.directory}")


if __name__ == "__main__":
    run_tool(main)
