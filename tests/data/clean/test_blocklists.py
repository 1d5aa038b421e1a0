"""Word and hash lists, and the index of benchmark n-grams."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

import pytest

pytest.importorskip("datatrove", reason="needs pip install -e '.[data]'")

from recipes.config.clean_schema import DecontaminationConfig
from recipes.data.clean.blocklists import count_matches, document_hash, read_hashes, read_words, words_of
from recipes.data.clean.contamination import write_index
from recipes.errors import UserError
from tests.support.clean_text import write_mirror


def test_words_and_phrases_of_both_languages(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# a comment\nकम\nBad Word\n\nbad\n", encoding="utf-8")
    phrases = read_words({"abuse": str(path)})
    assert count_matches("कमी और कमल", phrases) == {}  # a vowel sign or letter makes another word
    assert count_matches("बहुत कम, कम।", phrases) == {"abuse": 2}
    assert count_matches("BAD words, bad-word badly", phrases) == {"abuse": 3}  # bad twice, "bad word" once
    assert count_matches("क\u200dम", phrases) == {"abuse": 1}


def test_decomposed_text_matches(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(unicodedata.normalize("NFD", "café"), encoding="utf-8")
    assert count_matches("Café", read_words({"x": str(path)})) == {"x": 1}
    assert words_of("क़लम") == words_of("क\u093cलम")


def test_hashes(tmp_path: Path) -> None:
    path = tmp_path / "hashes.txt"
    digest = hashlib.sha256("एक दो".encode()).hexdigest()
    path.write_text(f"# known\n{digest.upper()}\n", encoding="utf-8")
    assert read_hashes({"known": str(path)}) == {digest: "known"}
    assert document_hash("  एक दो\n") == digest


def test_lists_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# nothing\n\n")
    with pytest.raises(UserError, match=r"has no words: give a list, or leave lists\.words\.abuse out"):
        read_words({"abuse": str(path)})
    with pytest.raises(UserError, match="has no hashes"):
        read_hashes({"known": str(path)})
    path.write_text("abc")
    with pytest.raises(UserError, match="'abc' is not a SHA-256"):
        read_hashes({"known": str(path)})
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not UTF-8"):
        read_words({"abuse": str(path)})


def test_the_index_has_every_n_gram_once(tmp_path: Path) -> None:
    question = " ".join(f"word{'abcdefghijklmnopqrst'[i]}" for i in range(16))
    rows: list[dict[str, object]] = [
        {"question": question, "choices": {"text": ["one two", "three"]}, "n": 5},
        {"question": question, "choices": {"text": ["one two", "three"]}, "n": 6},
    ]
    short: list[dict[str, object]] = [{"question": "Too short?", "answer": "Yes"}]
    mirror = write_mirror(
        tmp_path / "mirror",
        {"org/data/default/test": rows, "org/data/default/train": rows, "org/data/hi/validation": short},
    )
    config = DecontaminationConfig(mirror=str(mirror))
    counts = write_index(config, tmp_path / "index")
    # 19 words with the choices; numbers are no text; the training split may be trained on.
    assert counts == {"org/data/default/test": 19 - 13 + 1, "org/data/hi/validation": 0}
    size = (tmp_path / "index/org/data/default/test.index.hashes").stat().st_size
    assert size == 8 * 7
    without = DecontaminationConfig(mirror=str(mirror), ignore_fields=["question"])
    assert write_index(without, tmp_path / "other")["org/data/default/test"] == 0
    with pytest.raises(UserError, match=r"decontamination\.splits=\['none'\]: .* has none of these splits"):
        write_index(DecontaminationConfig(mirror=str(mirror), splits=["none"]), tmp_path / "x")
