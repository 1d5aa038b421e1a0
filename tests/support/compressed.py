"""Files as users compress them."""

import bz2
import gzip
from pathlib import Path

import pyarrow


def compressed(path: Path, suffix: str) -> Path:
    """The file, compressed under its name with the suffix."""
    if not suffix:
        return path
    target = path.with_name(path.name + suffix)
    if suffix == ".gz":
        target.write_bytes(gzip.compress(path.read_bytes()))
    elif suffix == ".bz2":
        target.write_bytes(bz2.compress(path.read_bytes()))
    else:
        with pyarrow.output_stream(str(target), compression="zstd") as stream:
            stream.write(path.read_bytes())
    return target
