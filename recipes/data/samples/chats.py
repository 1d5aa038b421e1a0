"""Samples of whole conversations: packed so that they fill a sample, or one by one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from recipes.config.data_schema import DataConfig
from recipes.data.chat.packing import pack
from recipes.data.samples.indexed import answers_path
from recipes.data.samples.joined import JoinedDataset
from recipes.data.samples.source_files import open_source
from recipes.data.tokenizer import TextTokenizer
from recipes.errors import UserError

EPOCHS_IN_MEMORY = 2


class ChatSource:
    """One source of conversations, an endless row of epochs: every epoch the same samples in another order.

    What is in a sample depends on the lengths alone. A conversation of n tokens takes n - 1 places, as none
    of them predicts the next conversation. Too long ones lose their end.

    Args:
        path: of its files, as :func:`open_source` takes it.
        data: packing, loss_on and seq_length of it.
    """

    def __init__(self, path: str | list[str], tokenizer: TextTokenizer, data: DataConfig, seed: int) -> None:
        files = open_source(path)
        self.path, self._seed, self._length = files.path, seed, data.seq_length
        self._answers_only = data.loss_on == "assistant"
        self._pad_id = tokenizer.eos_id
        self._tokens = JoinedDataset(files.prefixes)
        self._answers = [np.memmap(answers_path(prefix), np.uint8, mode="r") for prefix in files.prefixes]
        ends = np.cumsum(self._tokens.sequence_lengths, dtype=np.int64)
        self._starts = np.concatenate(([0], ends[:-1]))
        """Of each conversation, in the answers of all files."""
        self._file_ends = np.cumsum([len(answers) for answers in self._answers])
        places = np.minimum(self._tokens.sequence_lengths - 1, self._length)
        self.truncated, self.dropped = self._cut(places)
        self._samples = pack(places, self._length) if data.packing else _one_by_one(places)
        if not self._samples:
            raise UserError(f"{self.path}: no answer fits in data.seq_length={self._length:,}; raise it")
        self.order = lru_cache(maxsize=EPOCHS_IN_MEMORY)(self._order)

    def _cut(self, places: NDArray[np.integer]) -> tuple[int, int]:
        """Leaves out conversations of whose answers nothing fits.

        Returns:
            How many lose their end, and how many are left out.
        """
        long = np.flatnonzero(self._tokens.sequence_lengths - 1 > self._length)
        for number in long:
            if not self._said(int(number), self._length + 1)[1:].any():
                places[number] = 0
        dropped = int((places[long] == 0).sum())
        return len(long) - dropped, dropped

    def _said(self, number: int, length: int) -> NDArray[np.uint8]:
        """Which of the first tokens of a conversation the assistant says."""
        start = int(self._starts[number])
        file = int(np.searchsorted(self._file_ends, start, side="right"))
        begin = start - (int(self._file_ends[file - 1]) if file else 0)
        said: NDArray[np.uint8] = self._answers[file][begin : begin + length]
        return said

    def _order(self, epoch: int) -> NDArray[np.integer]:
        return np.random.RandomState(self._seed + epoch).permutation(len(self._samples))

    def __len__(self) -> int:
        """Samples per epoch, the same in each."""
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.sample(self.documents(index))

    def documents(self, index: int) -> list[int]:
        """The conversations in a sample, by their place in the source's files."""
        epoch, place = divmod(index, len(self))
        return self._samples[int(self.order(epoch)[place])]

    def epoch_of(self, index: int) -> tuple[int, int]:
        """As :class:`BlendSource`'s; there is one part."""
        return 0, index // len(self)

    def build_epochs(self, first: int, last: int) -> None:
        """Nothing: an epoch's order is computed when it is needed."""

    def sample(self, numbers: list[int]) -> dict[str, Tensor]:
        """Conversations one after the other, ``[s]`` of each field, then padding, which does not count."""
        tokens = np.full(self._length, self._pad_id, dtype=np.int64)
        labels, counts = np.zeros_like(tokens), np.zeros(self._length, dtype=np.float32)
        positions = np.zeros_like(tokens)
        begin = 0
        for number in numbers:
            ids = self._tokens.get(number)[: self._length + 1]
            end = begin + len(ids) - 1
            tokens[begin:end], labels[begin:end] = ids[:-1], ids[1:]
            positions[begin:end] = np.arange(len(ids) - 1)
            counts[begin:end] = self._said(number, len(ids))[1:] if self._answers_only else 1.0
            begin = end
        positions[begin:] = np.arange(self._length - begin)
        fields = {"tokens": tokens, "labels": labels, "loss_mask": counts, "position_ids": positions}
        return {name: torch.from_numpy(values) for name, values in fields.items()}


class HeldOutChats(Dataset):
    """All samples of a source once; indices past their end give samples that do not count."""

    def __init__(self, source: ChatSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.source[index] if index < len(self) else self.source.sample([])


def _one_by_one(places: NDArray[np.integer]) -> list[list[int]]:
    return [[number] for number in np.flatnonzero(places).tolist()]
