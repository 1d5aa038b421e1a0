"""What tokenized data hold, whatever they are called: a key for caches and resumes, and their largest id."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from recipes.data.samples.indexed import Sidecar, bin_path, idx_path
from recipes.errors import UserError
from recipes.files import atomic_write, make_directory

_SAMPLED_BLOCKS, _BLOCK_BYTES = 64, 1 << 16
_SCANNED_BYTES = 1 << 26


def content_key(sidecar: Sidecar) -> str:
    """32 hexadecimal digits that change with the content of .bin, .idx and .answers, not with their place.

    Data of tools.preprocess have recorded SHA-256s. Of others the sizes, and 64 blocks of each file from its
    beginning to its end, are hashed: reading all of it at every start would take longer than starting.

    Raises:
        UserError: a file cannot be read.
    """
    if sidecar.bin_sha256 and sidecar.idx_sha256:
        recorded = [sidecar.bin_sha256, sidecar.idx_sha256, sidecar.answers_sha256]
        return hashlib.sha256(" ".join(filter(None, recorded)).encode()).hexdigest()[:32]
    digest = hashlib.sha256()
    for path in (idx_path(sidecar.prefix), bin_path(sidecar.prefix)):
        try:
            with path.open("rb") as stream:
                size = stream.seek(0, 2)
                digest.update(f"{size} ".encode())
                for number in range(_SAMPLED_BLOCKS):
                    stream.seek(number * max(0, size - _BLOCK_BYTES) // (_SAMPLED_BLOCKS - 1))
                    digest.update(stream.read(_BLOCK_BYTES))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()[:32]


def largest_id(sidecar: Sidecar, cache_dir: Path) -> int:
    """The largest token id in the .bin, from a scan that is made once for the same content.

    Raises:
        UserError: the file cannot be read.
    """
    import numpy as np

    cached = cache_dir / f"largest-id-{content_key(sidecar)}.json"
    try:
        return int(json.loads(cached.read_text(encoding="utf-8"))["largest_id"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # Not scanned yet, or torn.
    tokens = np.memmap(bin_path(sidecar.prefix), dtype=sidecar.dtype, mode="r")
    block = _SCANNED_BYTES // tokens.itemsize
    largest = max(int(tokens[start : start + block].max()) for start in range(0, len(tokens), block))
    make_directory(cache_dir)
    with atomic_write(cached, "w") as file:
        json.dump({"largest_id": largest}, file)
    return largest
