"""Opening text files that may be compressed: .gz with the standard library, .zst and .bz2 with pyarrow."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from recipes.errors import UserError
from recipes.files import refuse_lfs_pointer

_BY_PYARROW = {".zst": "zstd", ".bz2": "bz2"}
COMPRESSED = (".gz", *_BY_PYARROW)
DAMAGE = (OSError, EOFError, zlib.error)
"""What reading a damaged file raises."""


def is_compressed(path: str | Path) -> bool:
    """Whether the name says that the file is compressed."""
    return Path(path).suffix in COMPRESSED


def uncompressed_suffix(path: str | Path) -> str:
    """The suffix that tells the format of the text: `.jsonl` of `a.jsonl` and of `a.jsonl.zst`."""
    path = Path(path)
    return Path(path.stem).suffix if is_compressed(path) else path.suffix


def open_stream(path: str | Path) -> BinaryIO:
    """Open a file for reading, decompressed according to its name; the stream can only be read forward.

    Damage shows only while reading, as one of :data:`DAMAGE`, which callers pass to :func:`damaged`.

    Raises:
        OSError: the file cannot be opened.
        UserError: it is a Git LFS pointer.
    """
    path = Path(path)
    refuse_lfs_pointer(path)
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path))
    if path.suffix in _BY_PYARROW:
        import pyarrow

        with path.open("rb"):  # Raises Python's own error if the file is missing or unreadable.
            pass
        stream = pyarrow.input_stream(str(path), compression=_BY_PYARROW[path.suffix])
        return cast(BinaryIO, io.BufferedReader(stream, 1 << 20))
    return path.open("rb")


def damaged(path: str | Path, error: Exception) -> UserError:
    """The error that reading a damaged compressed file raised, as a message for the user."""
    return UserError(f"{path} is damaged or incomplete: {error}")


def unreadable(path: str | Path, error: OSError) -> UserError:
    """Why a file cannot be read, as a message for the user."""
    return UserError(f"cannot read {path}: {error.strerror or error}")


@contextmanager
def reading(path: str | Path) -> Iterator[BinaryIO]:
    """`open_stream` for a block that reads the whole file.

    Raises:
        UserError: the file cannot be read, or compressed data are damaged.
    """
    try:
        with open_stream(path) as stream:
            yield stream
    except OSError as error:
        raise (damaged(path, error) if is_compressed(path) else unreadable(path, error)) from None
    except DAMAGE as error:
        raise damaged(path, error) from None
