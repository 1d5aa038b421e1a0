"""Bits per byte of plain texts, as tasks of lm-eval; and the windows in which long texts are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from recipes.data.text.documents import check_input, read_texts
from recipes.errors import UserError
from recipes.evaluation.task_files import TEXT_PREFIX


@dataclass(frozen=True)
class Reading:
    """How a model reads the texts of a task; the terms are those of `recipes.config.schema.TextsConfig`."""

    window: int
    stride: int
    packed: bool


@dataclass(frozen=True)
class Window:
    """Tokens that are scored in one pass."""

    context: list[int]
    scored: list[int]
    shares: dict[int, float]
    """Text -> the part of the score that it gets."""


def text_task(name: str, path: str | Path, text_key: str, order_seed: int | None) -> dict[str, Any]:
    """The configuration of a task for the texts of a file, those without any text left out.

    Args:
        order_seed: of the run in whose order they come; None: that of the file.

    Raises:
        UserError: the file cannot be read, or holds nothing.
    """
    check_input(path)
    texts = [text for text in read_texts(path, text_key) if text.strip()]
    if not texts:
        raise UserError(f"{path} has no documents with text")
    if order_seed is not None:
        texts = [texts[place] for place in training_order(len(texts), order_seed)]
    return {
        "task": TEXT_PREFIX + name,
        "custom_dataset": _as_dataset(texts),
        "output_type": "loglikelihood_rolling",
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": "",
        "doc_to_target": "text",  # A column's name, not a template, which Jinja would change.
        "metric_list": [
            {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}
        ],
        "metadata": {"version": 1.0},
    }


def training_order(documents: int, seed: int) -> list[int]:
    """The order in which megatron-core's GPTDataset reads the documents of an epoch."""
    import numpy as np

    order = np.arange(documents, dtype=np.int32)
    np.random.RandomState(seed).shuffle(order)
    return [int(place) for place in order]


def _as_dataset(texts: list[str]) -> Callable[..., Any]:
    def build(**metadata: Any) -> Any:
        from datasets import Dataset, DatasetDict

        return DatasetDict({"test": Dataset.from_dict({"text": texts})})

    return build


def windows_of_each(texts: Sequence[list[int]], before: int, reading: Reading) -> Iterator[Window]:
    """The windows of texts that are read by themselves, each after the token `before`."""
    for number, ids in enumerate(texts):
        for context, scored in sliding([before, *ids], reading):
            yield Window(context, scored, {number: 1.0})


def windows_of_all(texts: Sequence[list[int]], reading: Reading) -> Iterator[Window]:
    """The windows of texts that follow one another, as validation during training reads them.

    The very first token has nothing before it. It counts as an average one, as it does there. A window's
    score is divided among its texts by their tokens.
    """
    ids = [token for text in texts for token in text]
    ends = list(accumulate(map(len, texts)))
    whole = len(ids) / (len(ids) - 1)
    text, done = 0, 1
    for context, scored in sliding(ids, reading):
        shares: dict[int, float] = {}
        end = done + len(scored)
        while done < end:
            while ends[text] <= done:
                text += 1
            tokens = min(end, ends[text]) - done
            shares[text] = whole * tokens / len(scored)
            done += tokens
        yield Window(context, scored, shares)


def sliding(ids: list[int], reading: Reading) -> Iterator[tuple[list[int], list[int]]]:
    """(context, tokens to score after it): every token of `ids` but the first is scored once."""
    begin, done = 0, 1
    while done < len(ids):
        end = min(begin + reading.window + 1, len(ids))
        yield ids[begin:done], ids[done:end]
        begin, done = begin + reading.stride, end
