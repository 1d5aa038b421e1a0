"""The tokenizer of a stored model: where its files lie, before any is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from recipes.checkpoint.formats.blob import Blob
from recipes.checkpoint.formats.containers import Files
from recipes.console import shown
from recipes.data.tokenizer import TextTokenizer
from recipes.data.tokenizer.file_names import (
    HUGGING_FACE,
    HUGGING_FACE_FILES,
    LIBRARIES,
    SENTENCEPIECE,
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
)
from recipes.data.tokenizer.tokenizer_files import LARGEST_TOKENIZER, TokenizerFiles, locate
from recipes.errors import UserError

BESIDE = "huggingface"
"""The folder in a NeMo checkpoint for a Hugging Face tokenizer's other files."""


@dataclass(frozen=True)
class StoredTokenizer:
    """The tokenizer that a checkpoint carries or names."""

    library: str
    """sentencepiece or huggingface; anything else cannot be read."""
    name: str
    """Of its file or directory, as the configuration says."""
    blobs: Mapping[str, Blob]
    """Its files as :class:`TokenizerFiles` calls them; empty: it is not where the configuration says."""
    beside: Mapping[str, Blob] = field(default_factory=dict)
    """Hugging Face's files beside a SentencePiece model: a chat template, say, and what ends a turn."""
    where: str = "in the checkpoint"
    """It was looked for, and is not to be found if there are no blobs."""

    def files(self) -> TokenizerFiles:
        """Reads the files.

        Raises:
            UserError: they are missing, cut off, or of a library that cannot be read.
        """
        if self.library not in LIBRARIES:
            raise UserError(
                f"tokenizer.library={shown(self.library)}: only {' and '.join(LIBRARIES)} can be read"
            )
        needed = TOKENIZER_MODEL if self.library == SENTENCEPIECE else TOKENIZER_JSON
        if needed not in self.blobs:
            raise UserError(f"cannot read the tokenizer {shown(self.name)}: no such file {self.where}")
        contents = {name: blob.read(LARGEST_TOKENIZER) for name, blob in self.blobs.items()}
        return TokenizerFiles(self.library, self.blobs[needed].name, contents)

    def load(self) -> TextTokenizer:
        """Reads and loads the tokenizer.

        Raises:
            UserError: as :meth:`files`, or the files are damaged.
        """
        return self.files().load()


def tokenizer_in_checkpoint(library: str, name: str, files: Files) -> StoredTokenizer:
    """The file or directory ``name`` that lies in a checkpoint.

    The name comes from the checkpoint: only its last part is used, so that it cannot point elsewhere.
    """
    last = PurePosixPath(name).name
    if library == HUGGING_FACE:
        return StoredTokenizer(library, name, hugging_face_blobs(files.folder(last)) if last else {})
    model = files.find(last)
    found = {} if model is None else {TOKENIZER_MODEL: model}
    return StoredTokenizer(library, name, found, hugging_face_blobs(files.folder(BESIDE)))


def hugging_face_blobs(folder: Files) -> dict[str, Blob]:
    """The files of a Hugging Face tokenizer that are there."""
    return {name: blob for name in HUGGING_FACE_FILES if (blob := folder.find(name)) is not None}


def tokenizer_on_disk(path: str) -> StoredTokenizer:
    """The tokenizer that a user's own configuration names: the path is followed."""
    try:
        library, files = locate(path)
        return StoredTokenizer(library, path, {name: blob_of(file) for name, file in files.items()})
    except (UserError, OSError):  # It is gone, which matters only if it is to be loaded.
        return StoredTokenizer(SENTENCEPIECE, path, {})


def blob_of(path: Path) -> Blob:
    """A whole file."""
    return Blob(path, 0, path.stat().st_size, str(path))
