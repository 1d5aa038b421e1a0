"""Megatron's indexed dataset on disk: PREFIX.bin (tokens), PREFIX.idx (their places), PREFIX.json (ours).

Writing is byte for byte what megatron-core's `IndexedDatasetBuilder` writes, but in constant memory and
without torch; checking reads only the sidecar or the .idx, so that a run refuses damaged data at once.
"""

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from recipes.errors import UserError
from recipes.files import refuse_lfs_pointer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAGIC = b"MMIDIDX\x00\x00"
SIDECAR_KIND = "indexed dataset"

_HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype code, sequences, document boundaries
HEADER_BYTES = _HEADER.size
# megatron-core's DType codes of integer tokens.
_DTYPE_OF_CODE = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
_CODE_OF_DTYPE = {name: code for code, name in _DTYPE_OF_CODE.items()}
_ITEMSIZE = {"uint8": 1, "int8": 1, "int16": 2, "uint16": 2, "int32": 4, "int64": 8}
_BLOCK = 1 << 20  # entries of the index handled at a time
_FIX = "run tools.preprocess again, or copy the files again"


@dataclass(frozen=True)
class Sidecar:
    """What is known about one PREFIX: the content of PREFIX.json, or what the .idx alone tells.

    Fields that foreign data (no PREFIX.json) cannot know are None.
    """

    prefix: str
    """As it was asked for; not in PREFIX.json, files may move."""
    documents: int
    tokens: int
    dtype: str
    """`uint16` or `int32` (foreign data: any of Megatron's integer types)."""
    bin_bytes: int
    idx_bytes: int
    text_bytes: int | None = None
    """UTF-8 bytes of the documents' NFC text: the denominator of bits per byte."""
    empty_documents: int | None = None
    """Documents without a token, left out of all other counts."""
    append_eod: bool | None = None
    append_bos: bool | None = None
    text_key: str | None = None
    tokenizer_sha256: str | None = None
    vocab_size: int | None = None
    inputs: tuple[dict[str, Any], ...] | None = None
    """Per input file: `path`, `bytes`, `sha256`."""
    bin_sha256: str | None = None
    idx_sha256: str | None = None
    answers_sha256: str | None = None
    """Of PREFIX.answers, which only conversations have: a byte for each token, 1 if the assistant says it."""
    answer_tokens: int | None = None
    """So many the assistant says."""
    chat_template: str | None = None
    """The template by which conversations became text."""

    def to_json(self) -> str:
        """The content of PREFIX.json."""
        fields = {"kind": SIDECAR_KIND, "format": 1, **asdict(self)}
        del fields["prefix"]
        return json.dumps(fields, ensure_ascii=False, indent=2) + "\n"


def bin_path(prefix: str | Path) -> Path:
    """PREFIX.bin (not `with_suffix`: a prefix may contain dots)."""
    return Path(f"{prefix}.bin")


def idx_path(prefix: str | Path) -> Path:
    """PREFIX.idx."""
    return Path(f"{prefix}.idx")


def answers_path(prefix: str | Path) -> Path:
    """PREFIX.answers."""
    return Path(f"{prefix}.answers")


def sidecar_path(prefix: str | Path) -> Path:
    """PREFIX.json."""
    return Path(f"{prefix}.json")


def token_dtype(vocab_size: int) -> Literal["uint16", "int32"]:
    """The type in which Megatron stores tokens of such a vocabulary (its `DType.optimal_dtype`)."""
    return "uint16" if vocab_size < 65500 else "int32"


class IndexedWriter:
    """Writes documents to an open .bin and .idx in constant memory.

    Args:
        bin_file: open for writing.
        idx_file: open for writing and reading, repositionable, at its start.
        dtype: from `token_dtype`.
        documents: so many are in both files already, and both stand at their ends.
        tokens: as many in the .bin.

    Example:
        >>> writer = IndexedWriter(bin_file, idx_file, token_dtype(vocab_size))
        >>> writer.add(tokens, lengths)
        >>> writer.finish()
    """

    def __init__(
        self, bin_file: BinaryIO, idx_file: BinaryIO, dtype: str, documents: int = 0, tokens: int = 0
    ) -> None:
        self.documents = documents
        self.tokens = tokens
        self.dtype = dtype
        self._bin, self._idx = bin_file, idx_file
        if not idx_file.tell():
            self._write_header()

    def add(self, tokens: "npt.NDArray[Any] | bytes", lengths: "npt.NDArray[np.int32]") -> None:
        """Append documents: their tokens one after the other (an array, or its bytes), and their lengths."""
        import numpy as np

        # Lengths go straight into the .idx: a list of them would grow with the corpus.
        if not isinstance(tokens, bytes):
            tokens = np.ascontiguousarray(tokens, dtype=self.dtype).tobytes()
        self._bin.write(tokens)
        self._idx.write(np.ascontiguousarray(lengths, dtype=np.int32).tobytes())
        self.documents += len(lengths)
        self.tokens += int(lengths.sum(dtype=np.int64))

    def finish(self) -> None:
        """Complete the .idx: byte offsets, document boundaries, and the counts in the header."""
        import numpy as np

        offset = 0
        for start in range(0, self.documents, _BLOCK):
            count = min(_BLOCK, self.documents - start)
            self._idx.seek(_HEADER.size + 4 * start)
            lengths = np.frombuffer(self._idx.read(4 * count), dtype=np.int32).astype(np.int64)
            ends = offset + np.cumsum(lengths * _ITEMSIZE[self.dtype])
            pointers = np.concatenate(([offset], ends[:-1])).astype(np.int64)
            self._idx.seek(_HEADER.size + 4 * self.documents + 8 * start)
            self._idx.write(pointers.tobytes())
            offset = int(ends[-1])
        self._idx.seek(_HEADER.size + 12 * self.documents)
        for start in range(0, self.documents + 1, _BLOCK):
            stop = min(start + _BLOCK, self.documents + 1)
            self._idx.write(np.arange(start, stop, dtype=np.int64).tobytes())
        self._idx.seek(0)
        self._write_header()
        self._idx.flush()
        self._bin.flush()

    def _write_header(self) -> None:
        code = _CODE_OF_DTYPE[self.dtype]
        self._idx.write(_HEADER.pack(MAGIC, 1, code, self.documents, self.documents + 1))


class DocumentReader:
    """Reads single documents of a .bin/.idx pair by their numbers.

    Raises:
        UserError: the .idx is damaged, or the .bin has not the size that it says.
    """

    def __init__(self, bin_file: str | Path, idx_file: str | Path) -> None:
        self._bin, self._idx = Path(bin_file), Path(idx_file)
        found = _read_index(self._idx, str(bin_file), read_lengths=True)
        _check_size(self._bin, found.bin_bytes)
        self.documents, self.tokens, self._dtype = found.documents, found.tokens, found.dtype

    def __getitem__(self, number: int) -> "npt.NDArray[Any]":
        """The tokens of one document, ``[length]``."""
        import numpy as np

        with self._idx.open("rb") as stream:
            stream.seek(_HEADER.size + 4 * number)
            (length,) = struct.unpack("<i", stream.read(4))
            stream.seek(_HEADER.size + 4 * self.documents + 8 * number)
            (pointer,) = struct.unpack("<q", stream.read(8))
        with self._bin.open("rb") as stream:
            stream.seek(pointer)
            return np.frombuffer(stream.read(length * _ITEMSIZE[self._dtype]), self._dtype)


def check_prefix(prefix: str | Path) -> Sidecar:
    """Check that PREFIX.bin and PREFIX.idx are whole, and say what they contain.

    With PREFIX.json the files' sizes are compared with it (contents are not read). Foreign Megatron data
    without one is checked by its .idx: header, size, and whether the .bin has the bytes that the documents'
    lengths add up to.

    Raises:
        UserError: a file is missing, truncated or not what its name says; the message names it and the fix.
    """
    sidecar = read_sidecar(prefix)
    chats = sidecar is not None and sidecar.answers_sha256 is not None
    for path in (bin_path(prefix), idx_path(prefix), *([answers_path(prefix)] if chats else [])):
        if not path.is_file():
            what = "a .bin/.idx pair of tools.preprocess" if not chats else "the files of tools.prepare_chats"
            raise UserError(f"{path} does not exist: give the prefix of {what}")
        refuse_lfs_pointer(path)
    if sidecar is None:
        found = _read_index(idx_path(prefix), prefix, read_lengths=True)
        _check_size(bin_path(prefix), found.bin_bytes)
        return found
    _check_size(bin_path(prefix), sidecar.bin_bytes)
    _check_size(idx_path(prefix), sidecar.idx_bytes)
    if chats:
        _check_size(answers_path(prefix), sidecar.tokens)
    found = _read_index(idx_path(prefix), prefix, read_lengths=False)
    if (found.documents, found.dtype) != (sidecar.documents, sidecar.dtype):
        raise UserError(
            f"{idx_path(prefix)} has {found.documents} documents of {found.dtype} where "
            f"{sidecar_path(prefix)} says {sidecar.documents} of {sidecar.dtype}: "
            f"they do not belong together; {_FIX}"
        )
    return sidecar


def read_sidecar(prefix: str | Path) -> Sidecar | None:
    """PREFIX.json as a Sidecar, or None when there is none.

    Raises:
        UserError: PREFIX.json is damaged or something else than a sidecar of tools.preprocess.
    """
    path = sidecar_path(prefix)
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): move it away, or choose another prefix") from error
    if not isinstance(fields, dict) or fields.get("kind") != SIDECAR_KIND:
        raise UserError(f"{path} is not by tools.preprocess: move it away, or choose another prefix")
    if fields.get("format") != 1:
        raise UserError(f"{path} has format {fields.get('format')}, this version reads format 1")
    known = {key: value for key, value in fields.items() if key in Sidecar.__dataclass_fields__}
    try:
        sidecar = Sidecar(**known | {"prefix": str(prefix), "inputs": tuple(known["inputs"])})
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): move it away; {_FIX}") from error
    numbers = (sidecar.documents, sidecar.tokens, sidecar.bin_bytes, sidecar.idx_bytes)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise UserError(f"{path} is damaged (counts must be whole numbers): move it away; {_FIX}")
    return sidecar


def _read_index(path: Path, prefix: str | Path, read_lengths: bool) -> Sidecar:
    """What an .idx says by itself; without `read_lengths` from its header only (tokens and sizes are 0)."""
    try:
        with path.open("rb") as stream:
            header = stream.read(_HEADER.size)
            if len(header) < _HEADER.size or not header.startswith(MAGIC):
                raise UserError(f"{path} is not a Megatron .idx file (bad or truncated header): {_FIX}")
            _, version, code, sequences, boundaries = _HEADER.unpack(header)
            if version != 1 or code not in _DTYPE_OF_CODE:
                raise UserError(f"{path} has version {version}, token type {code}: not as Megatron writes it")
            documents, dtype = boundaries - 1, _DTYPE_OF_CODE[code]
            if documents < 1:
                raise UserError(f"{path} has no documents: {_FIX}")
            if not read_lengths:
                return Sidecar(str(prefix), documents, 0, dtype, 0, 0)
            # Multimodal data has one more byte per sequence.
            size = os.fstat(stream.fileno()).st_size
            expected = _HEADER.size + 12 * sequences + 8 * boundaries
            if size not in (expected, expected + sequences):
                raise _wrong_size(path, expected, size)
            tokens = sum(_sums_of_lengths(stream, sequences, path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return Sidecar(str(prefix), documents, tokens, dtype, tokens * _ITEMSIZE[dtype], size)


def _sums_of_lengths(stream: BinaryIO, count: int, path: Path) -> Iterator[int]:
    import numpy as np

    for start in range(0, count, _BLOCK):
        lengths = np.frombuffer(stream.read(4 * min(_BLOCK, count - start)), dtype=np.int32)
        if (lengths < 0).any():
            raise UserError(f"{path} is damaged (a document of negative length): {_FIX}")
        yield int(lengths.sum(dtype=np.int64))


def _check_size(path: Path, expected: int) -> None:
    actual = path.stat().st_size
    if actual != expected:
        raise _wrong_size(path, expected, actual)


def _wrong_size(path: Path, expected: int, actual: int) -> UserError:
    state = "is truncated" if actual < expected else "is too long"
    return UserError(f"{path} {state}: {actual} bytes where {expected} are expected; {_FIX}")
