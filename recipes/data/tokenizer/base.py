"""What every tokenizer here can do, whichever library computes it."""

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from recipes.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Span = tuple[int, int]
"""Characters [begin, end) of a text."""


class TextTokenizer(ABC):
    """Encodes NFC text and decodes ids; can be pickled, for worker processes.

    Names of special tokens that are written out in a text are text: no document can end itself.
    """

    name: str
    """How messages call it, usually its path."""
    sha256: str
    """Of what decides the ids: the same for two tokenizers only if they encode alike."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """The highest id + 1, special tokens included, without padding."""

    @property
    @abstractmethod
    def bos_id(self) -> int | None:
        """Begin-of-document token, if there is one."""

    @property
    @abstractmethod
    def eos_id(self) -> int:
        """End-of-document token."""

    @property
    @abstractmethod
    def unk_id(self) -> int | None:
        """What unknown characters become, if there is such a token."""

    @property
    @abstractmethod
    def pad_id(self) -> int | None:
        """Padding token, if there is one."""

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> "list[npt.NDArray[np.int32]]":
        """The tokens of texts that are NFC already (not checked), in one thread, without BOS or EOS."""

    @abstractmethod
    def id_to_piece(self, token: int) -> str:
        """How the model writes the token."""

    @abstractmethod
    def special_tokens(self) -> dict[str, int]:
        """Names of the tokens that stand for no text, with their ids. :meth:`encode` never gives them."""

    @abstractmethod
    def spans(self, text: str) -> list[Span]:
        """The characters of an NFC text that each of its tokens stands for.

        Tokens that are parts of one character all get that character; a token that stands for nothing in the
        text, such as a space put before it, gets an empty span.
        """

    @abstractmethod
    def _decode(self, ids: list[int]) -> str: ...

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`, NFC normalised, without BOS or EOS."""
        ids: list[int] = self.encode_batch([unicodedata.normalize("NFC", text)])[0].tolist()
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; special tokens are silent.

        Raises:
            UserError: an id is outside of the vocabulary.
        """
        ids = [int(token) for token in ids]
        if ids and (min(ids) < 0 or max(ids) >= self.vocab_size):
            raise UserError(
                f"token ids run from 0 to {self.vocab_size - 1:,}; found {min(ids):,} to {max(ids):,}"
            )
        return self._decode(ids)
