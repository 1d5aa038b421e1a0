"""Tokenizers that are one SentencePiece model."""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recipes.console import warn_once
from recipes.data.tokenizer.base import Span, TextTokenizer
from recipes.data.tokenizer.special_tokens import random_settings, token_settings
from recipes.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_SPACE = "▁"  # U+2581, SentencePiece's own sign for a space


class SentencePieceTokenizer(TextTokenizer):
    """A SentencePiece model.

    Args:
        model: the content of a .model file.
        name: how messages call it, usually its path.

    Raises:
        UserError: the content is not a SentencePiece model, or has no end-of-document token.
    """

    def __init__(self, model: bytes, name: str) -> None:
        import sentencepiece

        self.name = name
        self.sha256 = hashlib.sha256(model).hexdigest()
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            # An empty model loads without complaint and then answers everything with 0.
            if not model or not self._processor.LoadFromSerializedProto(model):
                raise RuntimeError("no pieces")
        except (RuntimeError, UnicodeDecodeError):  # The latter from its own message about a damaged piece.
            raise UserError(
                f"{name} is not a SentencePiece model, or is damaged ({len(model)} bytes)"
            ) from None
        if self._processor.eos_id() < 0:
            raise UserError(f"{name} has no end-of-sentence token, which must end every document")
        # Keyword of sentencepiece 0.2.2 and later: a quarter faster than lists of ints.
        self._returns_numpy = "return_type" in inspect.signature(self._processor.Encode).parameters
        self._bytes_of_space_sign = self._find_bytes_of_space_sign()

    def __reduce__(self) -> tuple[Any, ...]:
        return SentencePieceTokenizer, (self._model, self.name)

    @property
    def vocab_size(self) -> int:
        return int(self._processor.vocab_size())

    @property
    def bos_id(self) -> int | None:
        return _present(self._processor.bos_id())

    @property
    def eos_id(self) -> int:
        return int(self._processor.eos_id())

    @property
    def unk_id(self) -> int:
        """Never produced by models with byte fallback."""
        return int(self._processor.unk_id())

    @property
    def pad_id(self) -> int | None:
        return _present(self._processor.pad_id())

    def encode_batch(self, texts: Sequence[str]) -> "list[npt.NDArray[np.int32]]":
        import numpy as np

        if self._returns_numpy:
            encoded = self._processor.Encode(list(texts), num_threads=1, return_type="numpy")
        else:
            ids = self._processor.Encode(list(texts), num_threads=1, out_type=int)
            encoded = [np.array(tokens, dtype=np.int32) for tokens in ids]
        if self._bytes_of_space_sign:
            for place, text in enumerate(texts):
                if _SPACE in text:
                    encoded[place] = self._encode_space_signs(text)
        return encoded

    def _decode(self, ids: list[int]) -> str:
        return str(self._processor.Decode(ids))

    def id_to_piece(self, token: int) -> str:
        return str(self._processor.IdToPiece(token))

    def special_tokens(self) -> dict[str, int]:
        ids = filter(self._processor.IsControl, range(self.vocab_size))
        return {self.id_to_piece(token): token for token in ids}

    def spans(self, text: str) -> list[Span]:
        """See TextTokenizer.

        Raises:
            UserError: the library is older than 0.2.2, which cannot say.
        """
        if not self._returns_numpy:
            raise UserError("the places of tokens in a text need sentencepiece 0.2.2 or newer")
        if self._bytes_of_space_sign is None or _SPACE not in text:
            return self._spans_of(text, 0)
        spans: list[Span] = []
        start = 0
        for number, part in enumerate(text.split(_SPACE)):
            if number:
                spans += [(start, start + 1)] * len(self._bytes_of_space_sign)
                start += 1
            spans += self._spans_of(part, start)
            start += len(part)
        return spans

    def _spans_of(self, text: str, start: int) -> list[Span]:
        # SentencePiece counts bytes.
        character_of: dict[int, int] = {}
        place = 0
        for number, character in enumerate(text):
            character_of[place] = start + number
            place += len(character.encode())
        character_of[place] = start + len(text)
        spans = []
        for piece in self._processor.Encode(text, return_type="proto").pieces:
            begin, end = character_of[piece.begin], character_of[piece.end]
            # Of a character's bytes only the last has a width.
            spans.append((begin, begin + 1 if begin == end and self._processor.IsByte(piece.id) else end))
        return spans

    def to_vocab(self) -> str:
        """The content of SentencePiece's own .vocab file: a piece and its score per line."""
        ids = range(self.vocab_size)
        return "".join(f"{self.id_to_piece(token)}\t{self._processor.GetScore(token):g}\n" for token in ids)

    def check_names_beside(self, contents: Mapping[str, bytes]) -> None:
        """Compares the model with what the other files of a Hugging Face directory say of its tokens.

        Raises:
            UserError: they add tokens, which a SentencePiece model cannot hold, or give other ids.
        """
        named = token_settings(contents, None, self.name)
        for number, token in named.listed.items():
            if number >= self.vocab_size or self.id_to_piece(number) != token.content:
                raise self._not_alone(token.content)
        for token in (*named.names.values(), *named.extra):
            if self.id_to_piece(self._processor.PieceToId(token.content)) != token.content:
                raise self._not_alone(token.content)
        for setting in random_settings(contents, self.name):
            warn_once(
                f"{self.name}: tokenizer_config.json: {setting} is not used: a text has one encoding here"
            )

    def _not_alone(self, token: str) -> UserError:
        return UserError(
            f"{self.name} lacks the token {token[:60]!r} that a file beside it names: have transformers "
            "write a tokenizer.json with both: AutoTokenizer.from_pretrained(D).save_pretrained(D)"
        )

    def _find_bytes_of_space_sign(self) -> list[int] | None:
        """The byte tokens for U+2581, or None where they cannot be used.

        SentencePiece takes U+2581 in a text for a space. Models without byte fallback can do no better, and
        with a dummy prefix a text cannot be encoded in parts.
        """
        ids = [self._processor.PieceToId(f"<0x{byte:02X}>") for byte in _SPACE.encode()]
        prefixed = self._processor.EncodeAsPieces("a")[0].startswith(_SPACE)
        return ids if all(map(self._processor.IsByte, ids)) and not prefixed else None

    def _encode_space_signs(self, text: str) -> "npt.NDArray[np.int32]":
        import numpy as np

        parts = [np.array(self._processor.EncodeAsIds(part), dtype=np.int32) for part in text.split(_SPACE)]
        sign = np.array(self._bytes_of_space_sign, dtype=np.int32)
        return np.concatenate([array for part in parts for array in (sign, part)][1:])


def _present(token: int) -> int | None:
    return token if token >= 0 else None
