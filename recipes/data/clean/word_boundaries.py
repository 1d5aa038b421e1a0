"""What counts as a word for datatrove's filters."""

from __future__ import annotations

import regex
from datatrove.utils.word_tokenizers import WordTokenizer, load_word_tokenizer, simple_span_tokenize

from recipes.data.clean.blocklists import JOINERS
from recipes.data.clean.languages import devanagari_letters, latin_letters

HINDI = "hin_Deva"
"""datatrove's name for its Indic tokenizer; `hin` alone selects one for Kurmanji, which needs a download."""

# Vowel signs and virama are parts of words, but Python's own \w does not match them.
_EDGES = regex.compile(r"^[^\w\p{M}]+|[^\w\p{M}]+$")
_SENTENCE = regex.compile(r"[^.!?।॥\n]+[.!?।॥]*|[.!?।॥]+")


class SpacedWords(WordTokenizer):
    """Words between spaces, without the punctuation at their edges; runs of punctuation alone are words too.

    Gopher's rules were designed for such words. Tokenizers that split off punctuation, as datatrove's for
    English and Hindi do, turn a dialogue into so many "words without a letter" that novels are dropped.
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
    """The words by which documents are compared: split as their script requires, without punctuation.

    For texts that datatrove's `simplify_text` has lowercased and stripped of most punctuation. Dandas survive
    that, but some sources remove them: they are left out here, so that copies still match. So are zero-width
    joiners, which only change how a word looks.
    """

    def word_tokenize(self, text: str) -> list[str]:
        text = text.translate(JOINERS)
        if devanagari_letters(text) > latin_letters(text):
            words = load_word_tokenizer(HINDI).word_tokenize(text)
        else:
            words = super().word_tokenize(text)
        return [word for word in words if word[0].isalnum() or any(map(str.isalnum, word))]
