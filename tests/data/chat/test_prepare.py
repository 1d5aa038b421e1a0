"""From JSONL to .bin, .idx, .answers: what is kept, what is dropped, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.data.chat.prepare import prepare_chats, template_text
from recipes.data.chat.template import DEFAULT, Template
from recipes.data.samples.indexed import DocumentReader, check_prefix
from recipes.data.tokenizer import load_tokenizer
from recipes.errors import UserError
from tests.support.corpus import TinyData


def written(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


CHATS = [{"prompt": f"Where is {n}?", "completion": f"Here is {n}."} for n in range(5)]


def test_files(tiny_data: TinyData, tmp_path: Path) -> None:
    bad = [{"prompt": "a", "completion": " "}, {"messages": []}, {"prompt": "b", "completion": ""}]
    file = written(tmp_path / "chats.jsonl", [*CHATS, *bad])
    out = tmp_path / "x" / "chats"
    prepared = prepare_chats([file], tiny_data.tokenizer, out, template=DEFAULT)
    assert prepared is not None and prepared.conversations == 5
    assert prepared.dropped == {"an empty answer": 2, "no message of the user": 1}
    sidecar = check_prefix(out)
    assert (sidecar.documents, sidecar.chat_template) == (5, DEFAULT)
    reader, begin = DocumentReader(f"{out}.bin", f"{out}.idx"), 0
    template, answers = (
        Template(DEFAULT, load_tokenizer(tiny_data.tokenizer)),
        np.fromfile(f"{out}.answers", np.uint8),
    )
    for number, chat in enumerate(CHATS):
        ids, said = template.ids_and_answers(
            [
                {"role": "user", "content": chat["prompt"]},
                {"role": "assistant", "content": chat["completion"]},
            ]
        )
        assert reader[number].tolist() == ids
        assert answers[begin : begin + len(ids)].astype(bool).tolist() == said
        begin += len(ids)
    assert begin == len(answers) == sidecar.tokens and answers.sum() == sidecar.answer_tokens

    assert prepare_chats([file], tiny_data.tokenizer, out, template=DEFAULT) is None
    with pytest.raises(UserError, match="holds something else"):
        prepare_chats([file], tiny_data.tokenizer, out, template="other" + DEFAULT)
    assert prepare_chats([file], tiny_data.tokenizer, out, template="other" + DEFAULT, force=True) is not None

    with Path(f"{out}.answers").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(UserError, match="answers is too long"):
        check_prefix(out)


def test_nothing_left(tiny_data: TinyData, tmp_path: Path) -> None:
    file = written(tmp_path / "chats.jsonl", [{"messages": []}, {"text": "a"}])
    with pytest.raises(UserError, match="no conversation is left: 1 "):
        prepare_chats([file], tiny_data.tokenizer, tmp_path / "out", template=DEFAULT)
    assert not (tmp_path / "out.bin").exists()


def test_where_a_template_comes_from(tmp_path: Path) -> None:
    assert template_text(None, tmp_path) == DEFAULT
    (tmp_path / "chat_template.jinja").write_text("beside")
    assert template_text(None, tmp_path) == "beside"
    (tmp_path / "own.jinja").write_text("own")
    assert template_text(str(tmp_path / "own.jinja"), tmp_path) == "own"
    with pytest.raises(UserError, match="cannot be read"):
        template_text(str(tmp_path / "none.jinja"), tmp_path)
