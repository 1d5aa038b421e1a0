"""Scripts, Hindi among Devanagari's languages, Hinglish among Latin's; counted on sentences of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("py3langid", reason="needs pip install -e '.[data]'")

from recipes.data.clean.languages import Identifier, hinglish_and_english, sample, script_fractions
from recipes.data.clean.lexicon import ENGLISH, HINGLISH
from tests.support.clean_text import ENGLISH as ENGLISH_SENTENCES
from tests.support.clean_text import HINDI, MARATHI, NEPALI, OTHER_LATIN
from tests.support.clean_text import HINGLISH as HINGLISH_SENTENCES

IDENTIFY = Identifier(min_script_fraction=0.65)


def share(language: str, sentences: list[str]) -> float:
    return sum(IDENTIFY(sentence) == language for sentence in sentences) / len(sentences)


@pytest.mark.parametrize(
    ("language", "sentences"), [("hin_Deva", HINDI), ("mar_Deva", MARATHI), ("npi_Deva", NEPALI)]
)
def test_devanagari_languages_are_told_apart(language: str, sentences: list[str]) -> None:
    assert share(language, sentences) >= 0.9


def test_hinglish_and_english_are_told_apart() -> None:
    found = [IDENTIFY(sentence) == "hin_Latn" for sentence in HINGLISH_SENTENCES + ENGLISH_SENTENCES]
    true = sum(found[: len(HINGLISH_SENTENCES)])
    assert true / len(HINGLISH_SENTENCES) >= 0.95  # recall
    assert true / sum(found) >= 0.95  # precision
    assert share("eng_Latn", ENGLISH_SENTENCES) >= 0.95


@pytest.mark.parametrize("code", sorted(OTHER_LATIN))
def test_other_languages_are_neither(code: str) -> None:
    assert IDENTIFY(OTHER_LATIN[code]) not in ("eng_Latn", "hin_Latn")


def test_the_lexicons_share_nothing() -> None:
    assert not HINGLISH & ENGLISH
    assert hinglish_and_english("yeh the") == (0.5, 0.5)
    assert hinglish_and_english("") == (0.0, 0.0)


def test_scripts_are_counted_by_letters() -> None:
    assert script_fractions("कमल१२।॥") == (1.0, 0.0)  # digits and dandas belong to no language
    devanagari, latin = script_fractions("कम ab")
    assert (devanagari, latin) == (0.5, 0.5)
    assert script_fractions("日本語と") == (0.0, 0.0)
    assert script_fractions("123 !?") == (0.0, 0.0)


def test_mixed_scripts_are_undecided() -> None:
    assert IDENTIFY("यह आधा हिन्दी में लिखा है और half of it is English") == "und"
    assert Identifier(0.4)("यह आधा हिन्दी में है और half of it") == "hin_Deva"
    assert IDENTIFY("") == "und"


def test_long_texts_are_looked_at_in_three_places() -> None:
    text = "a" * 5000 + "b" * 5000 + "c" * 5000
    assert set(sample(text).split()[0]) == {"a"} and set(sample(text).split()[2]) == {"c"}
    assert "b" in sample(text) and len(sample(text)) < 5000
    assert sample("short") == "short"


def test_a_fasttext_model_by_path(tmp_path: Path) -> None:
    import fasttext

    data = tmp_path / "train.txt"
    labelled = [("hi", HINDI), ("mr", MARATHI), ("npi_Deva", NEPALI), ("en", ENGLISH_SENTENCES)]
    lines = [f"__label__{label} {text}\n" for label, texts in labelled for text in texts]
    data.write_text("".join(lines * 10), encoding="utf-8")
    model = fasttext.train_supervised(
        str(data), minn=2, maxn=4, dim=16, epoch=50, lr=1.0, thread=1, verbose=0
    )
    model.save_model(str(tmp_path / "lid.bin"))
    identify = Identifier(0.65, str(tmp_path / "lid.bin"))
    assert [identify(texts[0]) for texts in (HINDI, MARATHI, NEPALI, ENGLISH_SENTENCES)] == [
        "hin_Deva",
        "mar_Deva",
        "npi_Deva",
        "eng_Latn",
    ]
    # Hinglish is no label of such models: the lexicon still finds it.
    assert identify(HINGLISH_SENTENCES[0]) == "hin_Latn"
