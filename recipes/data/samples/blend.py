"""Which training sample is the n-th of a run, whatever the run's length, layout or later blends.

Each source is megatron-core's GPTDataset, built for one epoch at a time with seed + epoch: its sample order
depends on the number of samples asked for, so one long dataset would be reshuffled by a changed max_steps.
Which source gives sample n follows Megatron's greedy blending rule (:mod:`.greedy`), whose result for n does
not depend on how many samples are asked for. A blend that is changed in mid-run starts the rule anew at that
sample and goes on where each source stood.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.utils import Split
from torch import Tensor
from torch.utils.data import Dataset

from recipes.config.phases import Phase
from recipes.data.samples.greedy import GreedyOrder
from recipes.data.samples.joined import JoinedDataset
from recipes.data.samples.skip import Skip
from recipes.data.samples.source_files import open_source
from recipes.data.tokenizer import TextTokenizer

EPOCHS_IN_MEMORY = 2


class DatasetTokenizer:
    """What GPTDatasetConfig wants to know of a tokenizer.

    Its identifiers are part of the name under which megatron-core keeps a dataset's indices. The content of
    the data is in them too: without it, data written again under the same prefix would get the old indices.
    """

    def __init__(self, tokenizer: TextTokenizer, content: str) -> None:
        self.eod = tokenizer.eos_id
        self.vocab_size = None  # The type of the stored ids is read off the .idx file.
        self.unique_identifiers = {"sha256": tokenizer.sha256, "content": content}


class Source(Protocol):
    """An endless row of epochs of samples."""

    path: str

    def __len__(self) -> int:
        """Samples per epoch, the same in each."""

    def __getitem__(self, index: int) -> dict[str, Tensor]: ...

    def documents(self, index: int) -> list[int]:
        """Those of which a sample has tokens, by their place in the source's files."""

    def build_epochs(self, first: int, last: int) -> None:
        """Gets these epochs ready; all ranks call it."""


class BlendSource:
    """One tokenized source, an endless row of epochs.

    Args:
        path: of its files, as :func:`open_source` takes it.
    """

    def __init__(
        self,
        path: str | list[str],
        tokenizer: TextTokenizer,
        *,
        seed: int,
        seq_length: int,
        eod_mask_loss: bool,
        reset_attention_mask: bool = False,
        cache_dir: Path,
        split: Split = Split.train,
    ) -> None:
        files = open_source(path)
        self.path = files.path
        self._seed, self._seq_length, self._eod_mask_loss = seed, seq_length, eod_mask_loss
        self._reset = reset_attention_mask
        self._cache_dir, self._split = cache_dir, split
        self._tokenizer = DatasetTokenizer(tokenizer, files.content())
        self._tokens = JoinedDataset(files.prefixes)
        # One token more than the samples hold: the last label.
        self._samples_per_epoch = (files.tokens - 1) // seq_length
        self.epoch = lru_cache(maxsize=EPOCHS_IN_MEMORY)(self._build_epoch)

    def _config(self, epoch: int) -> GPTDatasetConfig:
        return GPTDatasetConfig(
            random_seed=self._seed + epoch,
            sequence_length=self._seq_length,
            tokenizer=self._tokenizer,
            path_to_cache=str(self._cache_dir),
            split="1,0,0",
            # Position ids say where documents start; the mask is made of them, see training/step.py.
            reset_position_ids=self._reset,
            reset_attention_mask=self._reset,
            eod_mask_loss=self._eod_mask_loss,
            create_attention_mask=False,
            drop_last_partial_validation_sequence=False,
        )

    def _build_epoch(self, epoch: int) -> GPTDataset:
        """All samples of one epoch, shuffled; the index files in the cache are written by rank 0."""
        # Only who builds needs to know the documents, 4 bytes each.
        documents = np.arange(len(self._tokens) if _is_rank_zero() else 0, dtype=np.int32)
        dataset = GPTDataset(self._tokens, self.path, documents, None, self._split, self._config(epoch))
        dataset.indices = np.empty(0, dtype=np.int32)
        self._tokens.release()
        return dataset

    def build_epochs(self, first: int, last: int) -> None:
        """Rank 0 writes the index files of these epochs, the others wait: they only read them."""
        if _is_rank_zero():
            for epoch in range(first, last + 1):
                self._build_epoch(epoch)  # Let go at once: what is in the cache is read as a memory map.
        _barrier()

    def __len__(self) -> int:
        """Whole samples per epoch, the same in each."""
        return self._samples_per_epoch

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        epoch, place = divmod(index, len(self))
        return self.epoch(epoch)[place]

    def documents(self, index: int) -> list[int]:
        """The documents of which a sample has tokens, by their place in the source's files."""
        epoch, place = divmod(index, len(self))
        samples = self.epoch(epoch)
        row = samples.shuffle_index[place]
        first, last = samples.sample_index[row][0], samples.sample_index[row + 1][0]
        return [int(document) for document in samples.document_index[first : last + 1]]


@dataclass(frozen=True)
class BlendState:
    """From which sample on a blend holds, where each source stood then, and how far it has been read."""

    start: int
    weights: dict[str, float]
    counts: dict[str, int]
    reached: int | None = None
    """A sample of the run at which the order can be taken up; without it, that is at ``start``."""
    reached_counts: dict[str, int] | None = None
    """Where each source stood then."""

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> BlendState:
        # Checkpoints of earlier versions do not say what was reached.
        return cls(**{key: value for key, value in state.items() if key in cls.__dataclass_fields__})


class Blend(Dataset):
    """Samples ``state.start`` to ``size - 1`` of a run; indices are the run's own sample numbers.

    ``sources`` may be left out by those who only want to know the order.
    """

    def __init__(self, state: BlendState, size: int, sources: Mapping[str, Source] | None = None) -> None:
        self.state = state
        self.names = [name for name, weight in state.weights.items() if weight > 0]
        self.sources = sources or {}
        self._first = [state.counts.get(name, 0) for name in self.names]
        known = None
        if state.reached is not None and state.reached_counts is not None:
            reached = [state.reached_counts.get(name, 0) for name in self.names]
            given = [now - before for now, before in zip(reached, self._first, strict=True)]
            known = state.reached - state.start, given
        self._order = GreedyOrder([state.weights[name] for name in self.names], size - state.start, known)

    def locate(self, sample: int) -> tuple[str, int]:
        """Source and index within it of a sample of the run."""
        place = sample - self.state.start
        if place < 0:
            raise IndexError(f"sample {sample} is before the blend's start {self.state.start}")
        source, index = self._order.locate(place)
        return self.names[source], self._first[source] + index

    def __getitem__(self, sample: int) -> dict[str, Tensor]:
        name, index = self.locate(sample)
        return self.sources[name][index]

    def counts_at(self, sample: int) -> dict[str, int]:
        """How many samples each source has given before ``sample``, earlier blends included."""
        return self._add(self._order.counts_at(sample - self.state.start))

    def _add(self, given: list[int]) -> dict[str, int]:
        since = zip(self.names, self._first, given, strict=True)
        return self.state.counts | {name: before + more for name, before, more in since}

    def state_at(self, sample: int) -> BlendState:
        """The same blend, to be taken up at a sample."""
        if sample <= self.state.start:
            return self.state
        return replace(self.state, reached=sample, reached_counts=self.counts_at(sample))

    def build_epochs(self, first: int, last: int) -> None:
        """Rank 0 writes the index files of every epoch that samples ``first`` to ``last`` need; all wait."""
        begin = self.counts_at(first)
        least, most = map(self._add, self._order.bounds_at(last - self.state.start))
        for name in self.names:
            length = len(self.sources[name])

            def epoch_of(counts: dict[str, int], name: str = name, length: int = length) -> int:
                """The epoch that the source's last sample is in."""
                return max(begin[name], counts[name] - 1) // length

            end = epoch_of(most)
            if end != epoch_of(least):  # Only if it makes a difference: counting goes through all samples.
                end = epoch_of(self.counts_at(last))
            self.sources[name].build_epochs(begin[name] // length, end)


class RunBlend(Dataset):
    """The blends of a run's phases, one after the other; indices are the run's own sample numbers.

    Args:
        sources: by name.
        stretches: each blend, and the sample at which the next one takes over (the last: the run's end).
        skip: samples that are left out; indices then count those that are read.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        stretches: list[tuple[BlendState, int]],
        skip: Skip | None = None,
    ) -> None:
        self.sources, self.skip = sources, skip or Skip()
        self.blends = [Blend(state, end, sources) for state, end in stretches]
        self.ends = [end for _, end in stretches]

    def at(self, sample: int) -> Blend:
        """The blend that gives a sample."""
        return self.blends[min(bisect_right(self.ends, sample), len(self.ends) - 1)]

    def state_at(self, consumed: int) -> BlendState:
        """What a run that has read so many samples must know to go on."""
        sample = self.skip.sample(consumed)
        return self.at(sample).state_at(sample)

    def locate(self, place: int) -> tuple[str, int]:
        """Source and index within it of a sample of the run."""
        sample = self.skip.sample(place)
        return self.at(sample).locate(sample)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        sample = self.skip.sample(place)
        return self.at(sample)[sample]

    def build_epochs(self, first: int) -> None:
        """Rank 0 writes the index files of every epoch that samples from ``first`` on need; all wait."""
        first = self.skip.sample(first)
        for blend, end in zip(self.blends, self.ends, strict=True):
            blend.build_epochs(max(first, blend.state.start), end)
            first = max(first, end)


def stretches_of(
    phases: list[Phase], saved: BlendState | None, consumed: int, end: int
) -> list[tuple[BlendState, int]]:
    """The blends from sample ``consumed`` to ``end`` (exclusive), each with the sample at which it ends.

    Args:
        phases: of the whole run.
        saved: the blend that held at ``consumed``; None when the run begins.
        consumed: how many samples the run has read; without a saved blend, by these phases.
        end: how many it will have read.
    """
    begin = 0 if saved is None else consumed
    stretches: list[tuple[BlendState, int]] = []
    state = saved
    for phase in phases:
        is_ahead = phase.end > begin and phase.first < end
        # A run that is at its end still has a blend: the one that held there.
        if is_ahead or (phase is phases[-1] and not stretches):
            state = continue_blend(phase.weights, state, max(begin, min(phase.first, end)))
            stretches.append((state, max(state.start, min(phase.end, end))))
    while len(stretches) > 1 and stretches[0][1] <= consumed:
        del stretches[0]
    return stretches


def continue_blend(weights: dict[str, float], saved: BlendState | None, consumed: int) -> BlendState:
    """The blend that holds from ``consumed`` on: the saved one if the weights are its own, else a new one."""
    wanted = {name: weight for name, weight in weights.items() if weight > 0}
    if saved is None:
        return BlendState(start=0, weights=wanted, counts={})
    if saved.weights == wanted:
        return saved
    return BlendState(start=consumed, weights=wanted, counts=Blend(saved, consumed).counts_at(consumed))


def with_restarted(saved: BlendState, consumed: int, names: Iterable[str]) -> BlendState:
    """The saved blend from ``consumed`` on, with the named sources at their beginning."""
    counts = Blend(saved, consumed).counts_at(consumed)
    return BlendState(consumed, saved.weights, counts | dict.fromkeys(names, 0))


def _is_rank_zero() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _barrier() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
