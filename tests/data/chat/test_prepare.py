"""From JSONL to .bin, .idx, .answers: what is kept, what is dropped, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.data.chat.prepare import prepare_chats
from recipes.data.chat.template import DEFAULT, Template
from recipes.data.samples.content import content_key
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


@pytest.mark.parametrize("suffix", [".bin", ".answers"])
def test_files_that_went_are_written_again(suffix: str, tiny_data: TinyData, tmp_path: Path) -> None:
    file, out = written(tmp_path / "chats.jsonl", CHATS), tmp_path / "chats"
    prepare_chats([file], tiny_data.tokenizer, out, template=DEFAULT)
    lost = Path(f"{out}{suffix}")
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(UserError, match=rf"chats{suffix} does not exist: give the prefix of"):
        check_prefix(out)
    assert prepare_chats([file], tiny_data.tokenizer, out, template=DEFAULT) is not None
    assert lost.read_bytes() == content


def test_who_says_what_is_content(tiny_data: TinyData, tmp_path: Path) -> None:
    """A template that asks for an answer in other words leaves the tokens and changes what counts."""
    file, keys = written(tmp_path / "chats.jsonl", CHATS), set()
    for name, template in (("one", DEFAULT), ("two", DEFAULT.replace("}Assistant:{% e", "}Assistant{% e"))):
        prepare_chats([file], tiny_data.tokenizer, tmp_path / name, template=template)
        keys.add(content_key(check_prefix(tmp_path / name)))
    assert (tmp_path / "one.bin").read_bytes() == (tmp_path / "two.bin").read_bytes()
    assert (tmp_path / "one.answers").read_bytes() != (tmp_path / "two.answers").read_bytes()
    assert len(keys) == 2
