"""What tools.check_chat_data finds in data in which everything is wrong once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.config.data_schema import DataConfig
from recipes.data.chat.check import check_chats, report
from recipes.data.chat.prepare import prepare_chats
from recipes.data.chat.template import DEFAULT, Template
from recipes.data.samples.chats import ChatSource
from recipes.data.tokenizer import load_tokenizer
from tests.support.corpus import TinyData

LONG = "Asha lives in Rampur. " * 40
RECORDS = [
    {"prompt": "Where?", "completion": "Here."},
    {"prompt": " where? ", "completion": "HERE."},
    {"prompt": "Where?", "completion": "There."},
    {"prompt": "Tell.", "completion": LONG},
    {"prompt": LONG, "completion": "Yes."},
    {"prompt": "a", "completion": ""},
    {"messages": [{"role": "assistant", "content": "a"}]},
    {
        "messages": [
            {"role": "user", "content": "one two three"},
            {"role": "assistant", "content": "four"},
            {"role": "user", "content": "five"},
            {"role": "assistant", "content": "six"},
        ]
    },
]


def test_findings(tiny_data: TinyData, tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    tokenizer = load_tokenizer(tiny_data.tokenizer)
    found = check_chats(
        [file], Template(DEFAULT, tokenizer), 64, lambda text: "some/table" if "one two" in text else None
    )
    assert (found.records, len(found.lengths), sum(found.turns)) == (8, 6, 7)
    assert found.dropped == {"an empty answer": 1, "roles out of order": 1}
    assert found.first_dropped["an empty answer"] == f"{file}:6"
    assert found.repeated == [f"{file}:2"] and found.other_answers == [f"{file}:3"]
    assert found.leaks == {"some/table": [f"{file}:8"]}
    # Training reads the same.
    prepare_chats([file], tiny_data.tokenizer, tmp_path / "out", template=DEFAULT)
    config = DataConfig(seq_length=64, conversations=True, reset_attention_mask=True)
    source = ChatSource(str(tmp_path / "out"), tokenizer, config, seed=1)
    assert (found.truncated, found.left_out, found.samples) == (1, 1, len(source))
    assert (source.truncated, source.dropped) == (1, 1)
    text = report(found)
    assert "8: 6 conversations, dropped: 1 an empty answer, 1 roles out of order" in text
    assert f"benchmark text some/table: 1 ({file}:8)" in text and "1 lose their end, 1 all answers" in text
    summary = json.loads(found.to_json())
    assert summary["conversations"] == 6 and summary["turns"] == 7
    assert summary["lengths"]["longest"] == max(found.lengths)


def test_text_of_benchmarks() -> None:
    pytest.importorskip("datatrove")
    from recipes.config.clean_schema import DecontaminationConfig
    from recipes.data.benchmark_mirror import split_file
    from recipes.data.clean.contamination import BenchmarkText, _rows, selected_entries
    from tests.support.paths import ROOT

    mirror = ROOT / "tests" / "fixtures" / "benchmarks" / "mirror"
    config = DecontaminationConfig(mirror=str(mirror), n_grams=8)
    benchmarks = BenchmarkText(config)
    entry = selected_entries(config)[0]
    row = max(_rows(split_file(mirror, entry), []), key=len)
    assert benchmarks.table_of(f"Somebody once asked me: {row} I did not know.") is not None
    assert (
        benchmarks.table_of("Asha lives in Rampur and goes to work by train every day of the week.") is None
    )
