"""Pack an extracted model: ``python -m tools.pack model_extracted model.nemo``."""

from __future__ import annotations

import os
from pathlib import Path

from recipes.arguments import Arguments, work_begins
from recipes.checkpoint.formats.recognise import check_stored
from recipes.cli import run_tool
from recipes.counts import size_in_words
from recipes.errors import UserError
from recipes.files import path_errors

EXAMPLES = """examples:
  python -m tools.extract model.nemo model_extracted
  python -m tools.pack model_extracted changed.nemo

The inverse of tools.extract: an uncompressed tar, as NeMo writes it. The directory must be a readable model;
the file must not exist yet, and appears only when it is complete.
"""


def main() -> None:
    """Checks the directory, then packs it."""
    parser = Arguments("tools.pack", "Pack an extracted model into a .nemo archive.", EXAMPLES)
    parser.add_argument("directory", type=Path, help="what tools.extract, or NeMo, unpacked")
    parser.add_argument("archive", type=Path, help="a new .nemo file")
    arguments = parser.parse_args()
    directory, archive = arguments.directory, arguments.archive
    with path_errors(directory):
        if not directory.is_dir():
            raise UserError(f"{directory}: no such directory")
    with path_errors(archive):
        if archive.exists():
            raise UserError(f"{archive} exists; name a new file")
    if archive.resolve().is_relative_to(directory.resolve()):
        raise UserError(f"{archive} lies in {directory}, so it would hold itself; name a file elsewhere")
    check_stored(directory)
    refuse_links(directory)
    work_begins()

    from recipes.checkpoint.formats.archive import pack_archive
    from recipes.checkpoint.open import open_stored_model

    with open_stored_model(directory) as source:
        if source.generation != "classic":
            raise UserError(f"{directory}: {source.kind}; only what was a .nemo can be packed as one")
        kind, _ = source.kind, source.model  # Reads the model too, so that no unusable file is written.
    pack_archive(directory, archive)
    print(f"packed {directory} ({kind}) into {archive}, {size_in_words(archive.stat().st_size)}")


def refuse_links(directory: Path) -> None:
    """Archives with links or devices in them would be refused by readers.

    Raises:
        UserError: names the first one.
    """
    for folder, folders, files in os.walk(directory):
        for name in [*folders, *files]:
            path = Path(folder, name)
            with path_errors(path):
                if path.is_symlink() or not (path.is_file() or path.is_dir()):
                    raise UserError(f"{path} is a link or a device; a .nemo holds plain files: copy it there")


if __name__ == "__main__":
    run_tool(main)
