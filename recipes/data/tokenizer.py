"""SentencePiece tokenizers: training them from text files, and loading them.

Training settings are those that served English and Hindi together: the text is NFC normalised before it gets
here and otherwise kept as it is, unknown characters fall back to bytes, digits are single tokens, whitespace
is text. So decoding gives back exactly the NFC text that was encoded.
"""

import hashlib
import inspect
import io
import json
import random
import re
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recipes.data.text import check_input, read_texts
from recipes.errors import UserError
from recipes.files import atomic_write, remove_stale, sha256_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SIDECAR_KIND = "tokenizer"
DEFAULT_MAX_BYTES = 100_000_000

# Recorded in PREFIX.json as they are.
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
_LONGEST_PIECE_OF_LINE = 16_000  # characters; 4 bytes each at most, within max_sentence_length
_SPACE = "▁"  # U+2581, SentencePiece's own sign for a space


class TextTokenizer:
    """A SentencePiece model that encodes NFC text and decodes it exactly.

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
        return TextTokenizer, (self._model, self.name)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included, without padding."""
        return int(self._processor.vocab_size())

    @property
    def bos_id(self) -> int | None:
        """Begin-of-document token, if the model has one."""
        return _present(self._processor.bos_id())

    @property
    def eos_id(self) -> int:
        """End-of-document token."""
        return int(self._processor.eos_id())

    @property
    def unk_id(self) -> int:
        """Token of the unknown; never produced by models with byte fallback."""
        return int(self._processor.unk_id())

    @property
    def pad_id(self) -> int | None:
        """Padding token, if the model has one."""
        return _present(self._processor.pad_id())

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`, NFC normalised, without BOS or EOS."""
        return [int(token) for token in self.encode_batch([unicodedata.normalize("NFC", text)])[0]]

    def encode_batch(self, texts: Sequence[str]) -> "list[npt.NDArray[np.int32]]":
        """The tokens of texts that are NFC already (not checked), in this thread only."""
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

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; special tokens are silent.

        Raises:
            UserError: an id is outside of the vocabulary.
        """
        ids = [int(token) for token in ids]
        if ids and (min(ids) < 0 or max(ids) >= self.vocab_size):
            raise UserError(f"token ids run from 0 to {self.vocab_size - 1}; found {min(ids)} to {max(ids)}")
        return str(self._processor.Decode(ids))

    def id_to_piece(self, token: int) -> str:
        """How SentencePiece writes the token."""
        return str(self._processor.IdToPiece(token))

    def to_vocab(self) -> str:
        """The content of SentencePiece's own .vocab file: a piece and its score per line."""
        ids = range(self.vocab_size)
        return "".join(f"{self.id_to_piece(token)}\t{self._processor.GetScore(token):g}\n" for token in ids)

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


def load_tokenizer(path: str | Path) -> TextTokenizer:
    """Load PREFIX.model.

    Raises:
        UserError: it cannot be read, is no SentencePiece model, or not the one that PREFIX.json describes.
    """
    path = Path(path)
    try:
        model = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the tokenizer {path}: {error.strerror}") from error
    tokenizer = TextTokenizer(model, str(path))
    expected = _read_sidecar(path.with_suffix(".json")).get("model_sha256")
    if expected is not None and expected != tokenizer.sha256:
        raise UserError(f"{path} is not the model that {path.with_suffix('.json')} describes (other SHA-256)")
    return tokenizer


@dataclass
class _Input:
    """One input of a training, as PREFIX.json records it."""

    path: str
    bytes: int
    sha256: str
    text_bytes: int
    """UTF-8 bytes of all of its lines."""
    used_bytes: int = 0
    """Those that training saw."""
    weight: float = 1.0


def train_tokenizer(
    inputs: Sequence[str | Path],
    prefix: str | Path,
    vocab_size: int = 16000,
    model_type: Literal["unigram", "bpe"] = "unigram",
    max_bytes: int | None = DEFAULT_MAX_BYTES,
    weights: Sequence[float] | None = None,
    text_key: str = "text",
    force: bool = False,
    log: Callable[[str], None] = lambda message: None,
) -> TextTokenizer:
    """Train a tokenizer and write PREFIX.model, PREFIX.vocab and PREFIX.json.

    Args:
        inputs: `.jsonl` files with a text per line, or plain text files.
        prefix: where to write, without suffix.
        vocab_size: number of tokens, the 256 bytes and 4 special tokens included.
        model_type: `unigram` or `bpe`.
        max_bytes: use at most so many bytes of text of each input, drawn from all of it; None uses all.
        weights: one per input: the shares of text they get. The largest sample with these shares is taken.
        text_key: where the text is in a line of JSON.
        force: replace an existing tokenizer. Without, one trained from the same inputs with the same
            settings is kept as it is.
        log: gets lines of progress.

    Raises:
        UserError: an input is missing, empty or malformed; the vocabulary does not fit; PREFIX exists.
    """
    model_path, vocab_path, json_path = (
        Path(f"{prefix}{suffix}") for suffix in (".model", ".vocab", ".json")
    )
    if vocab_size < 1 or (max_bytes is not None and max_bytes < 1):
        raise UserError("the vocabulary size and the number of bytes must be positive")
    if weights is not None and (len(weights) != len(inputs) or min(weights) <= 0):
        raise UserError(f"give one positive weight per input: {len(inputs)} inputs, weights {list(weights)}")
    _read_sidecar(json_path, strict=True)
    existing = [str(path) for path in (model_path, vocab_path, json_path) if path.exists()]
    if existing and not force:
        asked = _request(inputs, weights, vocab_size, model_type, max_bytes, text_key)
        if _request_of(_read_sidecar(json_path)) != asked:
            raise UserError(
                f"{', '.join(existing)} exists already: choose another name, or replace it with --force"
            )
        log(f"{model_path}: up to date")
        return load_tokenizer(model_path)
    model_path.parent.mkdir(parents=True, exist_ok=True)
    for path in (model_path, vocab_path, json_path):
        remove_stale(path)

    sources = [_survey(path, text_key) for path in inputs]
    for source, weight in zip(sources, weights or [1.0] * len(sources), strict=True):
        source.weight = weight
        log(f"{source.path}: {source.text_bytes / 1e6:.1f} MB of text")
    budgets = _budgets(sources, max_bytes, weighted=weights is not None)
    model = _train(_sample_lines(sources, budgets, text_key), vocab_size, model_type)

    tokenizer = TextTokenizer(model, str(model_path))
    record = {
        "kind": SIDECAR_KIND,
        "format": 1,
        "model_type": model_type,
        "vocab_size": tokenizer.vocab_size,
        "model_sha256": tokenizer.sha256,
        "normalization": "NFC before encoding",
        "settings": SETTINGS,
        "max_bytes": max_bytes,
        "text_key": text_key,
        "inputs": [asdict(source) for source in sources],
    }
    # First away with the old description, last the new one: in between, a kill leaves no wrong one behind.
    json_path.unlink(missing_ok=True)
    with atomic_write(model_path) as binary:
        binary.write(model)
    with atomic_write(vocab_path, "w") as stream:
        stream.write(tokenizer.to_vocab())
    with atomic_write(json_path, "w") as stream:
        json.dump(record, stream, ensure_ascii=False, indent=2)
        stream.write("\n")
    used = sum(source.used_bytes for source in sources)
    log(f"{model_path}: {model_type}, {tokenizer.vocab_size} tokens, trained on {used / 1e6:.1f} MB")
    return tokenizer


def _request(
    inputs: Sequence[str | Path],
    weights: Sequence[float] | None,
    vocab_size: int,
    model_type: str,
    max_bytes: int | None,
    text_key: str,
) -> dict[str, Any]:
    """Everything the result depends on, as PREFIX.json records it."""
    sources = []
    for path, weight in zip(inputs, weights or [1.0] * len(inputs), strict=True):
        check_input(path)
        sources.append([str(path), sha256_file(path), weight])
    return {
        "model_type": model_type,
        "vocab_size": vocab_size,
        "settings": SETTINGS,
        "max_bytes": max_bytes,
        "text_key": text_key,
        "inputs": sources,
    }


def _request_of(record: dict[str, Any]) -> dict[str, Any]:
    """The request that PREFIX.json was written for."""
    keys = ("model_type", "vocab_size", "settings", "max_bytes", "text_key")
    sources = [[source["path"], source["sha256"], source["weight"]] for source in record.get("inputs", [])]
    return {key: record.get(key) for key in keys} | {"inputs": sources}


def _survey(path: str | Path, text_key: str) -> _Input:
    """Read an input once: every line of it is sound, and how much text there is."""
    size = check_input(path)
    text_bytes = sum(len(line.encode()) for text in read_texts(path, text_key) for line in _lines(text))
    if not text_bytes:
        raise UserError(f"{path} has no usable text")
    return _Input(str(path), size, sha256_file(path), text_bytes)


def _budgets(sources: Sequence[_Input], max_bytes: int | None, weighted: bool) -> list[float]:
    """How many bytes to use of each source: the most that its size, `max_bytes` and the shares allow."""
    most = [min(source.text_bytes, max_bytes or source.text_bytes) for source in sources]
    if not weighted:
        return [float(limit) for limit in most]
    unit = min(limit / source.weight for limit, source in zip(most, sources, strict=True))
    return [unit * source.weight for source in sources]


def _sample_lines(sources: Sequence[_Input], budgets: Sequence[float], text_key: str) -> Iterator[str]:
    """Lines of all sources within their budgets, counting them in `used_bytes`.

    Lines are drawn, not documents, so that a budget smaller than one long document is still used; at random,
    so that documents that alternate (by language, say) do not fall in step with it; with a fixed seed.
    """
    for source, budget in zip(sources, budgets, strict=True):
        generator = random.Random(0)
        share = budget / source.text_bytes
        for text in read_texts(source.path, text_key):
            for line in _lines(text):
                size = len(line.encode())
                if source.used_bytes + size <= budget and generator.random() <= share:
                    source.used_bytes += size
                    yield line


def _lines(text: str) -> Iterator[str]:
    """The lines of a text that say something, cut at spaces where they are too long for SentencePiece.

    Newlines are not learned: each stays one token, its byte's. Otherwise pieces would grow across lines.
    """
    for line in text.split("\n"):
        while len(line) > _LONGEST_PIECE_OF_LINE:
            cut = line.rfind(" ", 1, _LONGEST_PIECE_OF_LINE)
            cut = cut if cut > 0 else _LONGEST_PIECE_OF_LINE
            yield line[:cut]
            line = line[cut:]
        if line.strip():
            yield line


def _train(lines: Iterator[str], vocab_size: int, model_type: str) -> bytes:
    """Run SentencePiece's trainer; the content of the .model."""
    import sentencepiece

    buffer = io.BytesIO()
    failure: list[BaseException] = []

    def run() -> None:
        try:
            sentencepiece.SentencePieceTrainer.Train(
                sentence_iterator=lines,
                model_writer=buffer,
                model_type=model_type,
                vocab_size=vocab_size,
                minloglevel=2,
                **SETTINGS,
            )
        except BaseException as error:
            failure.append(error)

    # In a thread of its own, because the trainer, minutes of C++, would not notice Ctrl-C; joining does.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise _explain(failure[0], vocab_size) from failure[0]
    return buffer.getvalue()


def _explain(error: BaseException, vocab_size: int) -> BaseException:
    """SentencePiece's message as ours, where it is about the user's choices."""
    message = str(error)
    if found := re.search(r"Vocabulary size too high.*<= (\d+)", message, re.DOTALL):
        return UserError(
            f"a vocabulary of {vocab_size} is too large for this text: "
            f"the largest possible is {found[1]}; choose that or less, or give more text"
        )
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return UserError(
            f"a vocabulary of {vocab_size} is too small: bytes, special tokens and this text's characters "
            f"are {found[1]} already"
        )
    if "sentences_.empty()" in message or "all_chars_count" in message:
        return UserError("the inputs have no usable text")
    return error


def _present(token: int) -> int | None:
    return token if token >= 0 else None


def _read_sidecar(path: Path, strict: bool = False) -> dict[str, Any]:
    """PREFIX.json of a tokenizer, {} where there is none; `strict` refuses a file of somebody else."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        fields = None
    if isinstance(fields, dict) and fields.get("kind") == SIDECAR_KIND:
        return fields
    if strict and path.exists():
        raise UserError(f"{path} exists and does not describe a tokenizer: choose another name")
    return {}
