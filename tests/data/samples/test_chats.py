"""Samples of conversations: which tokens, which positions, which of them count."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from recipes.config.data_schema import DataConfig
from recipes.data.chat.prepare import prepare_chats
from recipes.data.chat.template import DEFAULT
from recipes.data.samples.chats import ChatSource, HeldOutChats
from recipes.data.samples.indexed import DocumentReader
from recipes.data.tokenizer import load_tokenizer
from recipes.errors import UserError
from tests.support.corpus import TinyData


@pytest.fixture(scope="module")
def prefixes(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two files of conversations of very different lengths."""
    directory = tmp_path_factory.mktemp("chats")
    found = []
    for part in range(2):
        chats = [
            {"prompt": "What? " * (1 + n % 5), "completion": f"Asha {n} " * (1 + (n * 7) % 11)}
            for n in range(30)
        ]
        file = directory / f"{part}.jsonl"
        file.write_text("".join(json.dumps(chat) + "\n" for chat in chats[: 20 + 10 * part]))
        prepare_chats([file], tiny_data.tokenizer, directory / str(part), template=DEFAULT)
        found.append(str(directory / str(part)))
    return found


def source(prefixes: list[str], data: TinyData, length: int = 128, **settings: object) -> ChatSource:
    config = DataConfig(seq_length=length, conversations=True, reset_attention_mask=True, **settings)  # type: ignore[arg-type]
    return ChatSource(prefixes, load_tokenizer(data.tokenizer), config, seed=3)


def documents(prefixes: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for prefix in prefixes:
        reader, begin = DocumentReader(f"{prefix}.bin", f"{prefix}.idx"), 0
        answers = np.fromfile(f"{prefix}.answers", np.uint8)
        for number in range(reader.documents):
            ids = reader[number]
            found.append((ids, answers[begin : begin + len(ids)]))
            begin += len(ids)
    return found


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
@pytest.mark.parametrize("packing", [True, False])
def test_every_conversation_once_an_epoch(
    prefixes: list[str], tiny_data: TinyData, packing: bool, loss_on: str
) -> None:
    chats, all_of_them = source(prefixes, tiny_data, packing=packing, loss_on=loss_on), documents(prefixes)
    assert (len(chats) == 50) != packing and (chats.truncated, chats.dropped) == (0, 0)
    seen = []
    for index in range(len(chats)):
        sample, begin = chats[index], 0
        for number in chats.documents(index):
            ids, said = all_of_them[number]
            part = {name: values[begin : begin + len(ids) - 1].numpy() for name, values in sample.items()}
            assert (part["tokens"] == ids[:-1]).all() and (part["labels"] == ids[1:]).all()
            assert (part["position_ids"] == np.arange(len(ids) - 1)).all()
            assert (part["loss_mask"] == (said[1:] if loss_on == "assistant" else 1)).all()
            seen.append(number)
            begin += len(ids) - 1
        assert sample["loss_mask"][begin:].sum() == 0 and sample["position_ids"][begin:][:1].sum() == 0
    assert sorted(seen) == list(range(50))


def test_epochs_are_shuffled_anew_and_the_same_for_every_reader(
    prefixes: list[str], tiny_data: TinyData
) -> None:
    first, second = source(prefixes, tiny_data), source(prefixes, tiny_data)
    size = len(first)
    orders = [[first.documents(epoch * size + place) for place in range(size)] for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert [second.documents(2 * size + place) for place in range(size)] == orders[2]


def test_too_long_ones_lose_their_end(prefixes: list[str], tiny_data: TinyData) -> None:
    chats, all_of_them = source(prefixes, tiny_data, length=32), documents(prefixes)
    cut = [said for ids, said in all_of_them if len(ids) > 33]
    assert chats.dropped == sum(not said[1:33].any() for said in cut)
    assert chats.truncated == len(cut) - chats.dropped > 0
    for index in range(len(chats)):
        assert chats[index]["loss_mask"].sum() > 0
    with pytest.raises(UserError, match=r"no answer fits in data\.seq_length=2"):
        source(prefixes, tiny_data, length=2)


def test_held_out_sets_are_padded(prefixes: list[str], tiny_data: TinyData) -> None:
    chats = source(prefixes, tiny_data)
    held_out = HeldOutChats(chats)
    assert torch.equal(held_out[0]["tokens"], chats[0]["tokens"])
    assert held_out[len(held_out)]["loss_mask"].sum() == 0
