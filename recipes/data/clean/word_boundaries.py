"""What a word is, for datatrove's filters."""

from __future__ import annotations

import regex
from datatrove.utils.word_tokenizers import WordTokenizer, load_word_tokenizer, simple_span_tokenize

from recipes.data.clean.blocklists import JOINERS
from recipes.data.clean.languages import devanagari_letters, latin_letters

HINDI = "hin_Deva"
"""datatrove's name for its Indic tokenizer; `hin` alone selects one for Kurmanji, which needs a download."""

# Vowel signs and virama belong to words, and Python's own \w has not got them.
_EDGES = regex.compile(r"^[^\w\p{M}]+|[^\w\p{M}]+$")
_SENTENCE = regex.compile(r"[^.!?।॥\n]+[.!?।॥]*|[.!?।॥]+")


class SpacedWords(WordTokenizer):
    """Words between spaces, without the punctuation at their edges; rows of punctuation alone are words too.

    Gopher's rules were made for such words. Tokenizers that set punctuation apart, as datatrove's for English
    and Hindi do, make so many "words without a letter" of a dialogue that novels are dropped.
    """

    def word_tokenize(self, text: str) -> list[str]:
        return [
            # Most words need no regular expression.
            word if word[0].isalnum() and word[-1].isalnum() else _EDGES.sub("", word) or word
            for word in text.split()
        ]

    def sent_tokenize(self, text: str) -> list[str]:
        return [sentence for match in _SENTENCE.findall(text) if (sentence := match.strip())]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return list(simple_span_tokenize(text, self.sent_tokenize(text)))


class ComparedWords(SpacedWords):
    """The words by which documents are compared: by script, without punctuation.

    For texts that datatrove's `simplify_text` has lowercased and freed of most punctuation. Dandas survive
    that, and some sources strip them: they are left out here, so that they do not tell copies apart. So are
    zero-width joiners, which only change how a word looks.
    """

    def word_tokenize(self, text: str) -> list[str]:
        text = text.translate(JOINERS)
        if devanagari_letters(text) > latin_letters(text):
            words = load_word_tokenizer(HINDI).word_tokenize(text)
        else:
            words = super().word_tokenize(text)
        return [word for word in words if word[0].isalnum() or any(map(str.isalnum, word))]
