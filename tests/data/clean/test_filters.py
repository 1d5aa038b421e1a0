"""datatrove's blocks with Devanagari's settings: each trap that they hold has a test."""

from __future__ import annotations

import itertools
import unicodedata
from pathlib import Path

import pytest

pytest.importorskip("datatrove", reason="needs pip install -e '.[data]'")

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
from datatrove.pipeline.filters import GopherQualityFilter
from datatrove.pipeline.stats import DocStats
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.text import TextNormConfig, simplify_text
from datatrove.utils.word_tokenizers import IndicNLPTokenizer, load_tokenizer_assignments, load_word_tokenizer

from recipes.config.clean_schema import DecontaminationConfig
from recipes.config.hydra_app import compose
from recipes.data.clean.contamination import NORMALISATION, n_gram_config, write_index
from recipes.data.clean.pipeline_blocks import LANGUAGE, QualityFilter, gopher_quality, sentence_end_share
from recipes.data.clean.stages import Decontamination, minhash_config
from recipes.data.clean.word_boundaries import HINDI, ComparedWords, SpacedWords
from tests.support.clean_text import nearly, stories, write_mirror

CONFIG = compose("clean", ["output_dir=x"])


def signature(text: str, config: object = None) -> list[list[int]]:
    block = MinhashDedupSignature("unused", config or minhash_config(CONFIG), language=ComparedWords())
    result: list[list[int]] = block.get_signature(block.get_shingles(text))
    return result


def test_hin_alone_is_another_tokenizer() -> None:
    assert isinstance(load_word_tokenizer(HINDI), IndicNLPTokenizer)
    # If this fails, datatrove has mended it, and HINDI could become plain.
    assert load_tokenizer_assignments()["hin"].args[0] == "StanzaTokenizer"


def test_vowel_signs_survive_normalisation() -> None:
    assert simplify_text("कमल, कमाल? कमला!", NORMALISATION) == "कमल कमाल कमला"
    assert simplify_text("हिन्दी में", NORMALISATION) == "हिन्दी में"
    # The default makes other words of these.
    assert simplify_text("हिन्दी में", TextNormConfig()) != "हिन्दी में"


def test_minhash_sees_vowel_signs() -> None:
    other = "वह कल मेला देखने गया था पर उसे भीड़ में रास्ता नहीं मिला और वह लौट आया"
    text = other.replace("मेला", "माला").replace("मिला", "मेला")
    config = minhash_config(CONFIG)
    assert config.norm_config.norm_unicode_diacritics is False
    assert signature(text) != signature(other)


@pytest.mark.parametrize("language", ["en", "hi"])
def test_minhash_finds_near_copies_and_nothing_else(language: str) -> None:
    texts = stories(language, 12)  # type: ignore[arg-type]

    def alike(one: str, two: str) -> bool:
        return any(a == b for a, b in zip(signature(one), signature(two), strict=True))

    assert all(alike(text, nearly(text)) for text in texts)
    assert not any(alike(one, two) for one, two in itertools.pairwise(texts))
    # A copy whose dandas were stripped is a copy.
    assert language == "en" or alike(texts[0], texts[0].replace("।", ""))


def test_compared_words_by_script() -> None:
    assert ComparedWords().word_tokenize("यह कमल है । और वह १२") == ["यह", "कमल", "है", "और", "वह", "१२"]
    assert ComparedWords().word_tokenize("this is don t") == ["this", "is", "don", "t"]
    assert ComparedWords().word_tokenize("वह क्\u200dषमा") == ["वह", "क्षमा"]


@pytest.mark.parametrize("form", ["NFC", "composed"])
def test_benchmarks_with_nukta_letters_of_either_form(tmp_path: Path, form: str) -> None:
    text = "वह लड़का सड़क पर बड़ी तेज़ी से दौड़ रहा था और फिर पढ़ने के लिए घर आया"
    row = unicodedata.normalize("NFC", text)
    if form == "composed":
        for letter, composed in (("ड", "\u095c"), ("ढ", "\u095d"), ("ज", "\u095b")):
            row = row.replace(letter + "\u093c", composed)
        assert unicodedata.normalize("NFC", row) != row
    mirror = write_mirror(tmp_path / "mirror", {"org/quiz/default/test": [{"question": row}]})
    config = DecontaminationConfig(mirror=str(mirror))
    assert write_index(config, tmp_path / "index")["org/quiz/default/test"] > 0
    writer = JsonlWriter(str(tmp_path / "dropped"))
    block = Decontamination(str(tmp_path / "index"), n_gram_config(13), writer, ComparedWords())
    document = Document(unicodedata.normalize("NFC", f"एक दिन {text} फिर।"), "1")
    assert block.filter(document) == (False, "org__quiz__default__test")


def test_sentences_are_not_measured_for_repetition(tmp_path: Path) -> None:
    """Gopher's shares of repeated n-grams are for pages: "top 2-gram under 20 %" is one pair in ten words."""
    block = QualityFilter(CONFIG.quality, JsonlWriter(str(tmp_path)))
    sentence = "yaar mujhe toh yeh movie bahut achhi lagi kal raat"
    assert block.filter(Document(sentence, "1", metadata={LANGUAGE: "hin_Latn"})) is True
    again = "\n".join([sentence] * 10)
    assert block.filter(Document(again, "1", metadata={LANGUAGE: "hin_Latn"})) == (False, "dup_line_frac")
    short = block.filter(Document(sentence, "1", metadata={LANGUAGE: "eng_Latn"}))
    assert short == (False, "gopher_short_doc")


def test_words_lose_the_punctuation_at_their_edges() -> None:
    words = SpacedWords().word_tokenize('"हिन्दी।" (he\'s) well-known — ... कि')
    assert words == ["हिन्दी", "he's", "well-known", "—", "...", "कि"]


def test_danda_ends_a_sentence() -> None:
    assert SpacedWords().sent_tokenize("वह आया। वह गया॥ Did he? क्या") == [
        "वह आया।",
        "वह गया॥",
        "Did he?",
        "क्या",
    ]
    assert sentence_end_share("वह आया।\nवह गया ॥\n“वह है।”\nशीर्षक\n\n") == 0.75
    assert sentence_end_share("") == 0.0


def test_english_stop_words_would_drop_all_hindi() -> None:
    document = Document(stories("hi", 1)[0], "1")
    defaults = GopherQualityFilter(min_avg_word_length=2, language=SpacedWords())
    assert defaults.filter(document) == (False, "gopher_enough_stop_words")
    assert gopher_quality(CONFIG.quality.gopher["hin_Deva"]).filter(document) is True


def test_hindi_words_are_shorter() -> None:
    words = ["में", "से", "को", "का", "की", "है", "और", "था", "तो", "जो"] * 10
    document = Document(" ".join(words), "1")
    english = gopher_quality(CONFIG.quality.gopher["eng_Latn"])
    assert english.filter(document) == (False, "gopher_below_avg_threshold")
    assert gopher_quality(CONFIG.quality.gopher["hin_Deva"]).filter(document) is True


def test_dialogues_are_words() -> None:
    line = "“क्या, भाई?” “हाँ, है!” “अरे, में तो!”\n"
    document = Document(line * 8, "1")
    quality = CONFIG.quality.gopher["hin_Deva"]
    by_tokens = GopherQualityFilter(
        min_doc_words=20, min_avg_word_length=1, stop_words=quality.stop_words, language=HINDI
    )
    assert by_tokens.filter(document) == (False, "gopher_below_alpha_threshold")
    by_spaces = GopherQualityFilter(
        min_doc_words=20, min_avg_word_length=1, stop_words=quality.stop_words, language=SpacedWords()
    )
    assert by_spaces.filter(document) is True


def test_docstats_of_documents_without_url(tmp_path: Path) -> None:
    documents = [Document("कमल और कमला", "1")]
    with pytest.raises(KeyError, match="url"):
        list(DocStats(str(tmp_path / "a")).run(iter(documents)))
    stats = DocStats(str(tmp_path / "b"), groups_to_compute=["summary", "histogram"])
    assert len(list(stats.run(iter(documents)))) == 1
    assert (tmp_path / "b/summary/length/00000.json").is_file()
