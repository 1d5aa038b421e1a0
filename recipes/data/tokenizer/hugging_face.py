"""Tokenizers of a Hugging Face directory: tokenizer.json, computed by the `tokenizers` library."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from heapq import nlargest
from typing import TYPE_CHECKING, Any

from recipes.console import warn_once
from recipes.data.tokenizer.base import Span, TextTokenizer
from recipes.data.tokenizer.file_names import TOKENIZER_JSON
from recipes.data.tokenizer.special_tokens import (
    TokenSettings,
    json_object,
    random_settings,
    token_settings,
)
from recipes.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from tokenizers import Tokenizer

# Everything else in tokenizer.json is about what is added to the ids, and about decoding.
_DECIDING = ("normalizer", "pre_tokenizer", "model", "added_tokens")
_MODELS = ("BPE", "Unigram")
# What makes a model draw one of several segmentations: BPE dropout, unigram sampling.
_RANDOM = ("dropout", "alpha", "nbest_size")
_NFC = {"type": "NFC"}
_SPACE = "▁"
_LARGEST_VOCABULARY = 10_000_000


class HuggingFaceTokenizer(TextTokenizer):
    """A tokenizer.json with the files that name its special tokens; nothing in them is executed.

    Ids are those of transformers with ``add_special_tokens=False`` and ``split_special_tokens=True``; tokens
    that only the other files know are added as there. A text always becomes the same ids: dropout and
    sampling are switched off.

    Args:
        contents: the directory's files, tokenizer.json among them.
        name: how messages call it, usually its path.

    Raises:
        UserError: a file is damaged, or there is no end-of-document token.
    """

    def __init__(self, contents: Mapping[str, bytes], name: str) -> None:
        self.name = name
        self._contents = dict(contents)
        document = json_object(contents[TOKENIZER_JSON], f"{name}: {TOKENIZER_JSON}")
        named = token_settings(contents, document.get("added_tokens"), name)
        switched_off = random_settings(contents, name) + _without_randomness(document)
        self._tokenizer, added = _built(contents[TOKENIZER_JSON], document, named, name)
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        self._vocab_size = max(vocabulary.values()) + 1
        self._special = named.find(contents, vocabulary, name)
        self._unk_id = _unknown(document["model"], vocabulary)
        deciding = [
            {key: document.get(key) for key in _DECIDING},
            self._special.bos,
            self._special.eos,
            *added,
        ]
        canonical = json.dumps(deciding, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        self.sha256 = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
        if switched_off:
            warn_once(
                f"{name}: {', '.join(switched_off)} would encode the same text differently each time, and is "
                "switched off here; remove it from the file for programs that do not"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return HuggingFaceTokenizer, (self._contents, self.name)

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def bos_id(self) -> int | None:
        return self._special.bos

    @property
    def eos_id(self) -> int:
        return self._special.eos

    @property
    def unk_id(self) -> int | None:
        """What the model itself produces; a name in tokenizer_config.json alone never stands for a text."""
        return self._unk_id

    @property
    def pad_id(self) -> int | None:
        return self._special.pad

    def encode_batch(self, texts: Sequence[str]) -> "list[npt.NDArray[np.int32]]":
        import numpy as np

        # One text at a time: a batch of several would be shared among all cores.
        batches = (self._tokenizer.encode_batch_fast([text], add_special_tokens=False) for text in texts)
        return [np.array(encoded.ids, dtype=np.int32) for (encoded,) in batches]

    def words_looked_for(self) -> list[str]:
        """Added tokens that are found in a text before the model sees it."""
        added = self._tokenizer.get_added_tokens_decoder()
        return [token.content for _, token in sorted(added.items()) if not token.special]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def id_to_piece(self, token: int) -> str:
        piece = self._tokenizer.id_to_token(token)
        return f"<unused {token}>" if piece is None else str(piece)

    def special_tokens(self) -> dict[str, int]:
        added = self._tokenizer.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items() if token.special}

    def spans(self, text: str) -> list[Span]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        # A space put before the text claims its first character.
        return [
            (begin, begin) if piece == _SPACE and text[begin:end].strip(_SPACE + " ") else (begin, end)
            for piece, (begin, end) in zip(encoding.tokens, encoding.offsets, strict=True)
        ]


def _without_randomness(document: dict[str, Any]) -> list[str]:
    """Takes out of tokenizer.json's ``document`` what makes its model draw; returns what that was."""
    model = document.get("model")
    if not isinstance(model, dict):
        return []
    found = [f"model.{key}={model[key]!r}" for key in _RANDOM if model.get(key)]
    settled = {key: value for key, value in model.items() if not (key in _RANDOM and value)}
    if model.get("dropout"):
        settled["dropout"] = None  # As the library writes it; of sampling it writes nothing.
    document["model"] = settled
    return [f"{TOKENIZER_JSON}: {setting}"[:80] for setting in found]


def _built(
    content: bytes, document: dict[str, Any], named: TokenSettings, name: str
) -> tuple["Tokenizer", list[Any]]:
    """The library's tokenizer, made to add nothing and to cut nothing off; its added tokens, if ``named``
    changed them."""
    from tokenizers import Tokenizer

    model = document.get("model")
    # Older files leave BPE's name out.
    kind = model.get("type", "BPE") if isinstance(model, dict) else None
    if kind not in _MODELS:
        raise UserError(f"{name}: {TOKENIZER_JSON}: its model is neither BPE nor Unigram")
    try:
        tokenizer: Tokenizer = Tokenizer.from_str(content.decode("utf-8"))
        for key in _RANDOM:
            if hasattr(tokenizer.model, key):
                setattr(tokenizer.model, key, None)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if not 0 <= largest < _LARGEST_VOCABULARY:
            raise UserError(f"{name}: {TOKENIZER_JSON}: ids up to {largest:,} are no vocabulary")
        before = _added_tokens(tokenizer)
        named.add_to(tokenizer)
        after = _added_tokens(tokenizer)
        tokenizer.encode_special_tokens = True
        # All text that comes here is NFC; saves a tenth of the time. Added tokens are normalised too.
        names = (token.content for token in tokenizer.get_added_tokens_decoder().values())
        if document.get("normalizer") == _NFC and all(
            unicodedata.is_normalized("NFC", name) for name in names
        ):
            tokenizer.normalizer = None
        if kind == "Unigram":
            _hide_special_tokens(tokenizer)
        _check_repeatable(tokenizer, name)
    except UserError:
        raise
    except BaseException as error:
        # What panics in Rust is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(
            f"{name}: {TOKENIZER_JSON} is no tokenizer that can be read: {str(error)[:200]}"
        ) from None
    return tokenizer, [after] if after != before else []


def _added_tokens(tokenizer: "Tokenizer") -> list[Any]:
    """What the tokenizer has beside its model: of special tokens, whose names are never looked for in a text,
    the ids; of the others also how they are recognised."""
    found: list[Any] = []
    for number, token in sorted(tokenizer.get_added_tokens_decoder().items()):
        flags = [] if token.special else [token.single_word, token.lstrip, token.rstrip, token.normalized]
        found.append([number, token.content, token.special, flags])
    return found


def _check_repeatable(tokenizer: "Tokenizer", name: str) -> None:
    """Against a random setting that a future release of the library may read.

    Raises:
        UserError: encoding is random.
    """
    longest = nlargest(20, tokenizer.get_vocab(with_added_tokens=False), key=len)
    text = f"a नदी 1 {' '.join(longest)}"[:2000]
    first = tokenizer.encode(text, add_special_tokens=False).ids
    if any(tokenizer.encode(text, add_special_tokens=False).ids != first for _ in range(3)):
        raise UserError(f"{name}: {TOKENIZER_JSON} encodes the same text differently each time")


def _hide_special_tokens(tokenizer: "Tokenizer") -> None:
    """Keeps a unigram model, which has them among its pieces, from reading their names in a text."""
    from tokenizers import Regex, pre_tokenizers

    pieces = tokenizer.get_vocab(with_added_tokens=False)
    added = [token for _, token in sorted(tokenizer.get_added_tokens_decoder().items())]
    names = [token.content for token in added if token.special and token.content in pieces]
    rules = [f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in names if len(name) > 1]
    if not rules:
        return
    splitter = pre_tokenizers.Split(Regex("|".join(rules)), behavior="isolated")
    before = [tokenizer.pre_tokenizer] if tokenizer.pre_tokenizer is not None else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, splitter])


def _unknown(model: dict[str, Any], vocabulary: Mapping[str, int]) -> int | None:
    if model.get("type") == "Unigram":
        unknown = model.get("unk_id")
        return unknown if isinstance(unknown, int) else None
    return vocabulary.get(model.get("unk_token") or "")
