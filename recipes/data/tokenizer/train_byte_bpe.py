"""Byte-level BPE with a pre-tokenizer that keeps Hindi words whole, as a Hugging Face directory.

The regular expressions of GPT-2 and its successors take ``\\p{L}`` for a word, and Devanagari vowel signs,
virama, nukta and anusvara are ``\\p{M}``: they end every word at its first vowel sign.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from recipes.data.tokenizer.file_names import TOKENIZER_JSON
from recipes.data.tokenizer.train_sentencepiece import too_large, too_small
from recipes.data.tokenizer.uninterrupted import run_in_thread

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_JOINERS = r"\x{200C}\x{200D}"  # ZWNJ and ZWJ; part of a word where they stand in one
WORDS = "|".join(
    (
        # A word with one sign or space before it.
        rf"[^\r\n\p{{L}}\p{{M}}\p{{N}}]?[\p{{L}}\p{{M}}][\p{{L}}\p{{M}}{_JOINERS}]*",
        r"\p{N}",
        # Signs; marks and joiners that follow belong to them, as in emoji.
        r" ?[^\s\p{L}\p{M}\p{N}][^\s\p{L}\p{N}]*[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
# Not <s> and </s>, which are HTML: transformers reads these names in a text as the tokens.
BOS, EOS, PAD = SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|pad|>")
SETTINGS: dict[str, Any] = {
    "pre_tokenizer": WORDS,
    "normalizer": "NFC",
    "special_tokens": list(SPECIAL),
    "min_frequency": 2,
}
_BYTES = 256


def train_byte_bpe(lines: Iterator[str], vocab_size: int) -> dict[str, bytes]:
    """The directory's files.

    Raises:
        UserError: the vocabulary does not fit the text.
    """
    from tokenizers import pre_tokenizers, trainers

    if vocab_size < _BYTES + len(SPECIAL):
        raise too_small(vocab_size, _BYTES + len(SPECIAL))
    tokenizer = untrained(WORDS)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=SETTINGS["min_frequency"],
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    run_in_thread(lambda: tokenizer.train_from_iterator(lines, trainer))
    found = tokenizer.get_vocab_size()
    if found < vocab_size:  # The trainer stops without a word where no pair is left.
        raise too_large(vocab_size, found)
    named = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # Their names in a text are text, as in training.
    }
    return {
        TOKENIZER_JSON: tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": _json(settings),
        "special_tokens_map.json": _json(named),
    }


def untrained(words: str) -> "Tokenizer":
    """Byte-level BPE without merges that splits a text by the regular expression `words`."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()
