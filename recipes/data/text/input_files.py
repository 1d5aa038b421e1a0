"""Which text files a pattern on the command line or in a configuration means."""

from __future__ import annotations

import glob
from pathlib import Path

from recipes.data.text.compression import uncompressed_suffix
from recipes.errors import UserError


def json_lines_files(pattern: str) -> list[Path]:
    """A file, the files that match a glob, or all .jsonl files below a directory, sorted by name.

    Raises:
        UserError: there is none.
    """
    path = Path(pattern)
    if path.is_dir():
        # Not .json: tools.download writes its manifest next to its shards.
        found = [entry for entry in path.rglob("*") if uncompressed_suffix(entry) == ".jsonl"]
    else:
        # A pattern may be absolute, which Path.glob refuses.
        matches = [pattern] if path.exists() else glob.glob(pattern, recursive=True)  # noqa: PTH207
        found = [Path(name) for name in matches]
    files = sorted(entry for entry in found if entry.is_file())
    if not files:
        raise UserError(f"{pattern}: no JSONL file there")
    return files
