"""Tokenizers of a Hugging Face directory: tokenizer.json, computed by the `tokenizers` library."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recipes.data.tokenizer.base import Span, TextTokenizer
from recipes.data.tokenizer.file_names import TOKENIZER_JSON
from recipes.data.tokenizer.special_tokens import json_object, special_tokens
from recipes.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from tokenizers import Tokenizer

# Everything else in tokenizer.json is about what is added to the ids, and about decoding.
_DECIDING = ("normalizer", "pre_tokenizer", "model", "added_tokens")
_MODELS = ("BPE", "Unigram")
_NFC = {"type": "NFC"}
_SPACE = "▁"
_LARGEST_VOCABULARY = 10_000_000


class HuggingFaceTokenizer(TextTokenizer):
    """A tokenizer.json with the files that name its special tokens; nothing in them is executed.

    Ids are those of transformers with ``add_special_tokens=False`` and ``split_special_tokens=True``.

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
        self._tokenizer = _built(contents[TOKENIZER_JSON], document, name)
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        self._vocab_size = max(vocabulary.values(), default=-1) + 1
        if not 0 < self._vocab_size <= _LARGEST_VOCABULARY:
            raise UserError(f"{name}: {TOKENIZER_JSON}: ids up to {self._vocab_size - 1:,} are no vocabulary")
        self._special = special_tokens(contents, vocabulary, name)
        self._unk_id = _unknown(document["model"], vocabulary)
        deciding = [{key: document.get(key) for key in _DECIDING}, self._special.bos, self._special.eos]
        canonical = json.dumps(deciding, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        self.sha256 = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()

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

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def id_to_piece(self, token: int) -> str:
        piece = self._tokenizer.id_to_token(token)
        return f"<unused {token}>" if piece is None else str(piece)

    def spans(self, text: str) -> list[Span]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        # A space put before the text claims its first character.
        return [
            (begin, begin) if piece == _SPACE and text[begin:end].strip(_SPACE + " ") else (begin, end)
            for piece, (begin, end) in zip(encoding.tokens, encoding.offsets, strict=True)
        ]


def _built(content: bytes, document: dict[str, Any], name: str) -> "Tokenizer":
    """The library's tokenizer, made to add nothing and to cut nothing off."""
    from tokenizers import Tokenizer

    model = document.get("model")
    # Older files leave BPE's name out.
    kind = model.get("type", "BPE") if isinstance(model, dict) else None
    if kind not in _MODELS:
        raise UserError(f"{name}: {TOKENIZER_JSON}: its model is neither BPE nor Unigram")
    try:
        tokenizer: Tokenizer = Tokenizer.from_str(content.decode("utf-8"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        if document.get("normalizer") == _NFC:
            tokenizer.normalizer = None  # All text that comes here is NFC; a tenth of the time.
        if kind == "Unigram":
            _hide_special_tokens(tokenizer, document)
        tokenizer.encode("a नदी 1", add_special_tokens=False)
    except BaseException as error:
        # What panics in Rust is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(
            f"{name}: {TOKENIZER_JSON} is no tokenizer that can be read: {str(error)[:200]}"
        ) from None
    return tokenizer


def _hide_special_tokens(tokenizer: "Tokenizer", document: dict[str, Any]) -> None:
    """Keeps a unigram model, which has them among its pieces, from reading their names in a text."""
    from tokenizers import Regex, pre_tokenizers

    names = [token["content"] for token in document.get("added_tokens") or () if token.get("special")]
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
