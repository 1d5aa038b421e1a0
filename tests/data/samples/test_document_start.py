"""What stood before training documents, as the data's sidecars and Hugging Face's ids say it."""

from __future__ import annotations

import pytest

from recipes.data.samples.document_start import (
    DocumentStart,
    document_start_id,
    document_start_of,
    document_start_of_ids,
    is_document_start,
)
from recipes.data.samples.indexed import Sidecar
from recipes.data.tokenizer import load_tokenizer
from tests.support.corpus import TinyData


def sidecar(bos: bool | None, eod: bool | None) -> Sidecar:
    return Sidecar("x", 1, 1, "uint16", 2, 54, append_bos=bos, append_eod=eod)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([(True, True)], "bos"),
        ([(False, True), (False, True)], "eos"),
        ([(False, False)], None),
        ([(None, None)], None),  # foreign data
        ([(True, True), (False, True)], None),
        ([], None),
    ],
)
def test_of_sidecars(data: list[tuple[bool | None, bool | None]], expected: DocumentStart) -> None:
    assert document_start_of(sidecar(*flags) for flags in data) == expected


def test_separate_documents_do_not_see_the_end_before_them() -> None:
    assert document_start_of([sidecar(False, True)], separate=True) is None
    assert document_start_of([sidecar(True, True)], separate=True) == "bos"


def test_ids_there_and_back(tiny_data: TinyData) -> None:
    tokenizer = load_tokenizer(tiny_data.tokenizer)
    starts: tuple[DocumentStart, ...] = ("bos", "eos", None)
    ids = [document_start_id(start, tokenizer) for start in starts]
    assert ids == [tokenizer.bos_id, tokenizer.eos_id, None] and len(set(ids)) == 3
    assert tuple(document_start_of_ids(start, tokenizer.eos_id) for start in ids) == starts


def test_stored_values() -> None:
    assert all(map(is_document_start, ("bos", "eos", None)))
    assert not any(map(is_document_start, ("BOS", "", 0, True, ["bos"])))
