"""SentencePiece's trainer, with the settings that serve English and Hindi together.

The text is NFC normalised before it gets here and otherwise kept as it is, unknown characters fall back to
bytes, digits are single tokens, whitespace is text. So decoding gives back exactly the NFC text.
"""

import io
import re
from collections.abc import Callable, Iterator
from typing import Any

from recipes.data.tokenizer.sentencepiece_log import TrainingLog, followed
from recipes.data.tokenizer.uninterrupted import run_in_thread
from recipes.errors import UserError

# Recorded beside the model as they are.
SETTINGS: dict[str, Any] = {
    "character_coverage": 0.9999,
    "byte_fallback": True,
    "split_digits": True,
    # Not nmt_nfkc, which turns ZWNJ into a space; NFC is applied to the text by whoever reads it.
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "max_sentence_length": 65536,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": 3,
    # Unigram's sums depend on how many threads share them: fixed, for the same model on every machine.
    "num_threads": 16,
}

_OTHER_DIGIT = re.compile(r"([^\D0-9])")


def split_other_digits(lines: Iterator[str]) -> Iterator[str]:
    """The lines cut around each Devanagari digit, so that none is learnt as part of a longer piece.

    SentencePiece's `split_digits` knows ASCII's (and full-width ones) only.
    """
    for line in lines:
        if line.isascii():
            yield line
        else:
            yield from filter(None, _OTHER_DIGIT.split(line))


def train_sentencepiece(
    lines: Iterator[str], vocab_size: int, model_type: str, log: Callable[[str], None]
) -> bytes:
    """The content of a .model; `log` gets lines about the stages.

    Raises:
        UserError: the vocabulary does not fit the text.
    """
    import sentencepiece

    buffer = io.BytesIO()

    def train() -> None:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=split_other_digits(lines),
            model_writer=buffer,
            model_type=model_type,
            vocab_size=vocab_size,
            minloglevel=0,
            **SETTINGS,
        )

    try:
        with followed(TrainingLog(vocab_size, log)):
            run_in_thread(train)
    except Exception as error:
        raise _explain(error, vocab_size) from error
    return buffer.getvalue()


def _explain(error: Exception, vocab_size: int) -> Exception:
    """SentencePiece's message as ours, where it is about the user's choices."""
    message = str(error)
    if found := re.search(r"Vocabulary size too high.*<= (\d+)", message, re.DOTALL):
        return too_large(vocab_size, int(found[1]))
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return too_small(vocab_size, int(found[1]))
    if "sentences_.empty()" in message or "all_chars_count" in message:
        return UserError("the inputs have no usable text")
    return error


def too_large(vocab_size: int, largest: int) -> UserError:
    return UserError(
        f"a vocabulary of {vocab_size:,} is too large for this text: "
        f"the largest possible is {largest:,}; choose that or less, or give more text"
    )


def too_small(vocab_size: int, needed: int) -> UserError:
    return UserError(
        f"a vocabulary of {vocab_size:,} is too small: bytes, special tokens and this text's characters "
        f"are {needed:,} already"
    )
