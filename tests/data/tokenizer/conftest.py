"""A small text of both languages."""

from pathlib import Path

import pytest

from tests.support.tokenizer_texts import ENGLISH, HINDI, WORDS, write_jsonl


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "both.jsonl", [ENGLISH, HINDI, WORDS] * 20)
