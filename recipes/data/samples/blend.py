"""Which training sample is the n-th of a run, whatever the run's length, layout or later blends.

Each source is megatron-core's GPTDataset, built for one epoch at a time with seed + epoch: its sample order
depends on the number of samples asked for, so one long dataset would be reshuffled by a changed max_steps.
Which source gives sample n follows Megatron's greedy blending rule, whose result for n does not depend on
how many samples are asked for. A blend that is changed in mid-run starts the rule anew at that sample and
goes on where each source stood.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.helpers import build_blending_indices
from megatron.core.datasets.utils import Split
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from recipes.config.phases import Phase
from recipes.data.samples.content import content_key
from recipes.data.samples.indexed import check_prefix
from recipes.data.tokenizer import TextTokenizer
from recipes.files import make_directory

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


class BlendSource:
    """One tokenized source, an endless row of epochs."""

    def __init__(
        self,
        prefix: str,
        tokenizer: TextTokenizer,
        *,
        seed: int,
        seq_length: int,
        eod_mask_loss: bool,
        cache_dir: Path,
        split: Split = Split.train,
    ) -> None:
        self.prefix = prefix
        self._seed, self._seq_length, self._eod_mask_loss = seed, seq_length, eod_mask_loss
        self._cache_dir, self._split = cache_dir, split
        self._tokenizer = DatasetTokenizer(tokenizer, content_key(check_prefix(prefix)))
        self._tokens = GPTDataset.build_low_level_dataset(prefix, self._config(0))
        self._documents = np.arange(GPTDataset.numel_low_level_dataset(self._tokens), dtype=np.int32)
        # One token more than the samples hold: the last label.
        self._samples_per_epoch = (int(self._tokens.sequence_lengths.sum()) - 1) // seq_length
        self.epoch = lru_cache(maxsize=EPOCHS_IN_MEMORY)(self._build_epoch)

    def _config(self, epoch: int) -> GPTDatasetConfig:
        return GPTDatasetConfig(
            random_seed=self._seed + epoch,
            sequence_length=self._seq_length,
            tokenizer=self._tokenizer,
            path_to_cache=str(self._cache_dir),
            split="1,0,0",
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=self._eod_mask_loss,
            create_attention_mask=False,
            drop_last_partial_validation_sequence=False,
        )

    def _build_epoch(self, epoch: int) -> GPTDataset:
        """All samples of one epoch, shuffled; the index files in the cache are written by rank 0."""
        return GPTDataset(self._tokens, self.prefix, self._documents, None, self._split, self._config(epoch))

    def build_epochs(self, first: int, last: int) -> None:
        """Rank 0 writes the index files of these epochs, the others wait: they only read them."""
        if _is_rank_zero():
            for epoch in range(first, last + 1):
                self.epoch(epoch)
        _barrier()

    def __len__(self) -> int:
        """Whole samples per epoch, the same in each."""
        return self._samples_per_epoch

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        epoch, place = divmod(index, len(self))
        return self.epoch(epoch)[place]


@dataclass(frozen=True)
class BlendState:
    """From which sample on a blend holds, and where each source stood then."""

    start: int
    weights: dict[str, float]
    counts: dict[str, int]

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> BlendState:
        return cls(int(state["start"]), dict(state["weights"]), dict(state["counts"]))


class Blend(Dataset):
    """Samples ``state.start`` to ``size - 1`` of a run; indices are the run's own sample numbers."""

    def __init__(
        self, sources: dict[str, BlendSource], state: BlendState, size: int, cache_dir: Path
    ) -> None:
        self.state = state
        self.names = [name for name, weight in state.weights.items() if weight > 0]
        self.sources = [sources[name] for name in self.names]
        self._first = [state.counts.get(name, 0) for name in self.names]
        self._source_of, self._index_in_source = self._cached_indices(size - state.start, cache_dir)

    def _cached_indices(self, count: int, cache_dir: Path) -> tuple[NDArray[Any], NDArray[Any]]:
        """The rule's result, computed once by rank 0 and read by every process as a memory map."""
        weights = [self.state.weights[name] for name in self.names]
        key = hashlib.sha256(json.dumps([weights, count]).encode()).hexdigest()[:32]
        paths = [cache_dir / f"blend-{key}-{part}.npy" for part in ("source", "index")]
        if _is_rank_zero() and not all(path.is_file() for path in paths):
            make_directory(cache_dir)
            for path, array in zip(paths, blending_indices(weights, count), strict=True):
                partial = path.with_suffix(".tmp.npy")
                np.save(partial, array)
                partial.replace(path)
        _barrier()
        return np.load(paths[0], mmap_mode="r"), np.load(paths[1], mmap_mode="r")

    def locate(self, sample: int) -> tuple[str, int]:
        """Source and index within it of a sample of the run."""
        place = sample - self.state.start
        if place < 0:
            raise IndexError(f"sample {sample} is before the blend's start {self.state.start}")
        source = int(self._source_of[place])
        return self.names[source], self._first[source] + int(self._index_in_source[place])

    def __getitem__(self, sample: int) -> dict[str, Tensor]:
        name, index = self.locate(sample)
        return self.sources[self.names.index(name)][index]

    def counts_at(self, sample: int) -> dict[str, int]:
        """How many samples each source has given before ``sample``, earlier blends included."""
        return _add_counts(self.state.counts, self.names, self._source_of[: sample - self.state.start])

    def build_epochs(self, first: int, last: int) -> None:
        """Rank 0 writes the index files of every epoch that samples ``first`` to ``last`` need; all wait."""
        begin, end = self.counts_at(first), self.counts_at(last)
        for name, source in zip(self.names, self.sources, strict=True):
            length = len(source)
            source.build_epochs(begin[name] // length, max(begin[name], end[name] - 1) // length)


class RunBlend(Dataset):
    """The blends of a run's phases, one after the other; indices are the run's own sample numbers.

    Args:
        sources: by name.
        stretches: each blend, and the sample at which the next one takes over (the last: the run's end).
        cache_dir: of the indices.
    """

    def __init__(
        self, sources: dict[str, BlendSource], stretches: list[tuple[BlendState, int]], cache_dir: Path
    ) -> None:
        self.blends = [Blend(sources, state, end, cache_dir) for state, end in stretches]
        self.ends = [end for _, end in stretches]

    def at(self, sample: int) -> Blend:
        """The blend that gives a sample."""
        return self.blends[min(bisect_right(self.ends, sample), len(self.ends) - 1)]

    def state_at(self, consumed: int) -> BlendState:
        """What a run that has read so many samples must know to go on."""
        return self.at(consumed).state

    def locate(self, sample: int) -> tuple[str, int]:
        """Source and index within it of a sample of the run."""
        return self.at(sample).locate(sample)

    def __getitem__(self, sample: int) -> dict[str, Tensor]:
        return self.at(sample)[sample]

    def build_epochs(self, first: int) -> None:
        """Rank 0 writes the index files of every epoch that samples from ``first`` on need; all wait."""
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
    source_of, _ = blending_indices(list(saved.weights.values()), consumed - saved.start)
    counts = _add_counts(saved.counts, list(saved.weights), source_of)
    return BlendState(start=consumed, weights=wanted, counts=counts)


def with_restarted(saved: BlendState, consumed: int, names: Iterable[str]) -> BlendState:
    """The saved blend from ``consumed`` on, with the named sources at their beginning."""
    source_of, _ = blending_indices(list(saved.weights.values()), consumed - saved.start)
    counts = _add_counts(saved.counts, list(saved.weights), source_of)
    return BlendState(consumed, saved.weights, counts | dict.fromkeys(names, 0))


def blending_indices(weights: list[float], count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Megatron's greedy rule: source and index within it of the first ``count`` samples, each ``[count]``."""
    source_of, index_in_source = np.zeros(count, dtype=np.int16), np.zeros(count, dtype=np.int64)
    shares = np.array(weights, dtype=np.float64) / sum(weights)
    build_blending_indices(source_of, index_in_source, shares, len(weights), count, False)
    return source_of, index_in_source


def _add_counts(counts: dict[str, int], names: list[str], source_of: NDArray[Any]) -> dict[str, int]:
    used = np.bincount(source_of, minlength=len(names)).tolist()
    return counts | {name: counts.get(name, 0) + more for name, more in zip(names, used, strict=True)}


def _is_rank_zero() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _barrier() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
