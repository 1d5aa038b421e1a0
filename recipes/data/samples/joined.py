"""Several indexed datasets, one after the other, read as one."""

from __future__ import annotations

import resource
from functools import cached_property

import numpy as np
from megatron.core.datasets.indexed_dataset import IndexedDataset
from numpy.typing import NDArray

from recipes.errors import UserError

_DESCRIPTORS_PER_FILE = 3  # of an open IndexedDataset: the .bin, and a memory map of each file
_OTHER_DESCRIPTORS = 512


class JoinedDataset:
    """What GPTDataset asks of an IndexedDataset, over several. Documents are numbered through.

    So a source is shuffled as a whole, and how its text is cut into files does not change a single sample.

    Args:
        prefixes: of the files, at least one.
    """

    def __init__(self, prefixes: list[str]) -> None:
        _allow_open_files(_DESCRIPTORS_PER_FILE * len(prefixes) + _OTHER_DESCRIPTORS)
        self._parts = [IndexedDataset(prefix) for prefix in prefixes]
        self._ends = np.cumsum([len(part) for part in self._parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @cached_property
    def sequence_lengths(self) -> NDArray[np.int32]:
        """Of all documents. A copy, 4 bytes each, needed only to build indices: see :meth:`release`."""
        return np.concatenate([part.sequence_lengths for part in self._parts])

    def release(self) -> None:
        """Forget the lengths; they are put together again when somebody asks."""
        vars(self).pop("sequence_lengths", None)

    def get(self, idx: int, offset: int = 0, length: int | None = None) -> NDArray[np.integer]:
        """Tokens of one document, from ``offset`` on."""
        part = int(np.searchsorted(self._ends, idx, side="right"))
        before = int(self._ends[part - 1]) if part else 0
        tokens: NDArray[np.integer] = self._parts[part].get(int(idx) - before, offset, length)
        return tokens


def _allow_open_files(needed: int) -> None:
    """Raises the process's limit, which is often 1,024, as far as it may itself.

    Raises:
        UserError: that is not far enough.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(
            f"data.train needs {needed} open files, this system allows {hard}: raise it "
            f"(ulimit -n {needed}), or make fewer, larger files with tools.preprocess"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
