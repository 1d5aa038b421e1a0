"""One tokenized source as an endless row of samples of one length, or of several lengths one after another.

Each epoch is a GPTDataset of megatron-core, built by itself with seed + epoch: its sample order depends on
the number of samples asked for, so one long dataset would be reshuffled by a changed max_steps.

Samples are cut from an epoch's shuffled documents, so those of another length are others altogether. Where a
run changes the length, a source goes on with the documents of its epoch that it has not begun to read: no
token is read twice in an epoch. What is left of documents that it has begun waits for the next epoch.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.utils import Split
from numpy.typing import NDArray
from torch import Tensor

from recipes.data.samples.joined import JoinedDataset
from recipes.data.samples.source_files import open_source
from recipes.data.tokenizer import TextTokenizer
from recipes.files import atomic_write, make_directory

EPOCHS_IN_MEMORY = 2

Parts = Sequence[Sequence[int]]
"""Of which samples a source consists: [number of the first one, sequence length], ascending, from 0 on."""


class DatasetTokenizer:
    """What GPTDatasetConfig wants to know of a tokenizer.

    Its identifiers are part of the name under which megatron-core keeps a dataset's indices. The content of
    the data is in them too: without it, data written again under the same prefix would get the old indices.
    """

    def __init__(self, tokenizer: TextTokenizer, content: str) -> None:
        self.eod = tokenizer.eos_id
        self.vocab_size = None  # The type of the stored ids is read off the .idx file.
        self.unique_identifiers = {"sha256": tokenizer.sha256, "content": content}


class Epochs:
    """A source's epochs at one sequence length, of which the first may be the rest of one.

    Args:
        text: the source.
        seq_length: tokens per sample.
        after: the same source at another length, which has given so many samples; the first epoch is what it
            has left of the one that it is in.
    """

    def __init__(self, text: SourceText, seq_length: int, after: tuple[Epochs, int] | None = None) -> None:
        self.text, self.seq_length, self.after = text, seq_length, after
        self.begin, self.rest = 0, 0
        """Number of the first epoch, and how many samples it has if it is the rest of one."""
        # One token more than the samples hold: the last label.
        self.samples_per_epoch = (text.tokens - 1) // seq_length
        self.epoch = lru_cache(maxsize=EPOCHS_IN_MEMORY)(self._open)
        if after is not None:
            self._continue(*after)

    def _continue(self, before: Epochs, given: int) -> None:
        row, place = before.place_of(given)
        self.begin = before.begin + row
        if place == 0:
            return
        name = json.dumps([self.text.key, *before.history(), [given]])
        self._left = self.text.cache_dir / f"left-{hashlib.sha256(name.encode()).hexdigest()[:32]}.npz"
        before.build(row, row)
        if _is_rank_zero() and not self._left.exists():
            documents = before.documents_left(row, place)
            tokens = int(self.text.tokens_of(documents))
            make_directory(self._left.parent)
            with atomic_write(self._left) as file:
                np.savez(file, documents=documents, tokens=np.int64(tokens))
        _barrier()
        with np.load(self._left, allow_pickle=False) as left:
            self.rest = max(0, int(left["tokens"]) - 1) // self.seq_length
        if self.rest == 0:
            self.begin += 1

    def history(self) -> list[list[int]]:
        """Sequence lengths up to this one, and after how many samples of each the next one began."""
        earlier = [] if self.after is None else [*self.after[0].history(), [self.after[1]]]
        return [*earlier, [self.seq_length]]

    def place_of(self, index: int) -> tuple[int, int]:
        """The epoch, counted from the first one here, and the place in it of a sample."""
        if self.rest == 0:
            return divmod(index, self.samples_per_epoch)
        if index < self.rest:
            return 0, index
        row, place = divmod(index - self.rest, self.samples_per_epoch)
        return row + 1, place

    def _documents(self, row: int) -> NDArray[np.int32]:
        """Of an epoch."""
        if row == 0 and self.rest:
            with np.load(self._left, allow_pickle=False) as left:
                documents: NDArray[np.int32] = left["documents"]
            return documents
        return np.arange(self.text.documents, dtype=np.int32)

    def _open(self, row: int) -> GPTDataset:
        """All samples of an epoch, shuffled; the index files in the cache are written by rank 0."""
        # Only who builds needs to know the documents, 4 bytes each.
        documents = self._documents(row) if _is_rank_zero() else np.arange(0, dtype=np.int32)
        rest = self._left.stem if row == 0 and self.rest else ""
        return self.text.samples(self.seq_length, self.begin + row, documents, rest)

    def build(self, first: int, last: int) -> None:
        """Rank 0 writes the index files of these epochs, the others wait: they only read them."""
        if _is_rank_zero():
            for row in range(first, last + 1):
                self._open(row)  # Let go at once: what is in the cache is read as a memory map.
        _barrier()

    def documents_left(self, row: int, place: int) -> NDArray[np.int32]:
        """The documents of an epoch of which its first ``place`` samples have nothing."""
        samples = self.epoch(row)
        rows = samples.shuffle_index[:place].astype(np.int64)
        order = np.asarray(samples.document_index)
        begun = np.zeros(len(order) + 1, dtype=np.int64)
        # A sample ends in the document in which the next one begins, if only with its last label.
        np.add.at(begun, samples.sample_index[rows, 0], 1)
        np.add.at(begun, samples.sample_index[rows + 1, 0] + 1, -1)
        left = order[np.cumsum(begun[:-1]) == 0]
        return np.sort(left).astype(np.int32)


class SourceText:
    """The files of a source, and how samples are made of them.

    Args:
        path: of its files, as :func:`open_source` takes it.
    """

    def __init__(
        self,
        path: str | list[str],
        tokenizer: TextTokenizer,
        *,
        seed: int,
        eod_mask_loss: bool,
        reset_attention_mask: bool = False,
        cache_dir: Path,
        split: Split = Split.train,
    ) -> None:
        files = open_source(path)
        self.path, self.tokens, self.cache_dir = files.path, files.tokens, cache_dir
        self._seed, self._eod_mask_loss, self._split = seed, eod_mask_loss, split
        self._reset = reset_attention_mask
        self._tokenizer, self._content = tokenizer, files.content()
        self._tokens = JoinedDataset(files.prefixes)
        self.documents = len(self._tokens)
        self.key = f"{self._content} {tokenizer.sha256} {seed}"
        """Changes with whatever decides the order of samples."""

    def tokens_of(self, documents: NDArray[np.int32]) -> int:
        """How many tokens these documents have."""
        lengths = self._tokens.sequence_lengths
        self._tokens.release()
        return int(lengths[documents].sum(dtype=np.int64))

    def samples(
        self, seq_length: int, epoch: int, documents: NDArray[np.int32], rest: str = ""
    ) -> GPTDataset:
        """These documents, shuffled as in an epoch.

        Args:
            seq_length: tokens per sample.
            epoch: its number.
            documents: needed only if the indices are not in the cache.
            rest: names them if they are not all; for the cache.
        """
        content = f"{self._content} {rest}" if rest else self._content
        config = GPTDatasetConfig(
            random_seed=self._seed + epoch,
            sequence_length=seq_length,
            tokenizer=DatasetTokenizer(self._tokenizer, content),
            path_to_cache=str(self.cache_dir),
            split="1,0,0",
            # Position ids say where documents start; the mask is made of them, see training/step.py.
            reset_position_ids=self._reset,
            reset_attention_mask=self._reset,
            eod_mask_loss=self._eod_mask_loss,
            create_attention_mask=False,
            drop_last_partial_validation_sequence=False,
        )
        dataset = GPTDataset(self._tokens, self.path, documents, None, self._split, config)
        dataset.indices = np.empty(0, dtype=np.int32)
        self._tokens.release()
        return dataset


class BlendSource:
    """A source whose samples are cut to one length after another; they are numbered through.

    All ranks make it together.
    """

    def __init__(self, text: SourceText, parts: Parts) -> None:
        self.text, self._first = text, [first for first, _ in parts]
        self._parts: list[Epochs] = []
        for number, (first, seq_length) in enumerate(parts):
            after = (self._parts[-1], first - self._first[number - 1]) if number else None
            self._parts.append(Epochs(text, seq_length, after))

    def _part(self, index: int) -> tuple[Epochs, int]:
        """The part that a sample is in, and its number there."""
        number = bisect_right(self._first, index) - 1
        return self._parts[number], index - self._first[number]

    def _locate(self, index: int) -> tuple[GPTDataset, int]:
        part, index = self._part(index)
        row, place = part.place_of(index)
        return part.epoch(row), place

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        samples, place = self._locate(index)
        sample: dict[str, Tensor] = samples[place]
        return sample

    def documents(self, index: int) -> list[int]:
        """The documents of which a sample has tokens, by their place in the source's files."""
        samples, place = self._locate(index)
        row = samples.shuffle_index[place]
        first, last = samples.sample_index[row][0], samples.sample_index[row + 1][0]
        return [int(document) for document in samples.document_index[first : last + 1]]

    def epoch_of(self, index: int) -> tuple[int, int]:
        """The part that a sample is in, and the epoch; ascending with the samples."""
        part, place = self._part(index)
        return self._parts.index(part), part.begin + part.place_of(place)[0]

    def build_epochs(self, first: int, last: int) -> None:
        """Rank 0 writes the index files that samples ``first`` to ``last`` need; all wait."""
        begin, end = self.epoch_of(first)[0], self.epoch_of(last)[0]
        for number in range(begin, end + 1):
            part, offset = self._parts[number], self._first[number]
            # Up to where the next part takes over.
            until = last if number == end else max(offset, self._first[number + 1] - 1)
            part.build(part.place_of(max(first, offset) - offset)[0], part.place_of(until - offset)[0])


def _is_rank_zero() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _barrier() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
