"""The files that make up a tokenizer, as bytes: read from where they lie, stored elsewhere, loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recipes.checks import hub_hint
from recipes.data.tokenizer.base import TextTokenizer
from recipes.data.tokenizer.file_names import (
    HUGGING_FACE,
    HUGGING_FACE_FILES,
    NAMING_FILES,
    SENTENCEPIECE,
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
)
from recipes.errors import UserError
from recipes.files import leads_out, refuse_lfs_pointer

LARGEST_TOKENIZER = 100_000_000
"""Bytes of one file. The largest published tokenizer.json has about a third of it."""


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer that is not loaded yet."""

    library: str
    """sentencepiece or huggingface."""
    name: str
    """How messages call it."""
    contents: Mapping[str, bytes]
    """Some of HUGGING_FACE_FILES; or one SentencePiece model under the name tokenizer.model, with the
    NAMING_FILES of its directory."""

    def load(self) -> TextTokenizer:
        """
        Raises:
            UserError: it is damaged, has no end-of-document token, or needs what is not there.
        """
        if self.library == SENTENCEPIECE:
            from recipes.data.tokenizer.sentencepiece_model import SentencePieceTokenizer

            tokenizer = SentencePieceTokenizer(self.contents[TOKENIZER_MODEL], self.name)
            tokenizer.check_names_beside(self.contents)
            return tokenizer
        from recipes.data.tokenizer.hugging_face import HuggingFaceTokenizer

        return HuggingFaceTokenizer(self.contents, self.name)

    def stored_as(self, name: str) -> dict[str, bytes]:
        """Where the files go in a checkpoint that calls the tokenizer `name`: one file, or a directory."""
        if self.library == SENTENCEPIECE:
            return {name: self.contents[TOKENIZER_MODEL]}
        return {f"{name}/{file}": content for file, content in self.contents.items()}


def locate(path: str | Path) -> tuple[str, dict[str, Path]]:
    """What reads the tokenizer at `path`, and its files by the names that TokenizerFiles has for them.

    In a directory, tokenizer.json goes before tokenizer.model, as in transformers.

    Raises:
        UserError: a directory has neither, or a link leads out of it, or the path is a name on the hub.
    """
    path = Path(path)
    if not path.exists() and (hub := hub_hint(path)):
        raise UserError(f"{path}: no such file; {hub}")
    if path.is_dir():
        found = tokenizer_paths(path)
        if TOKENIZER_JSON not in found:
            return SENTENCEPIECE, {
                name: found[name] for name in (TOKENIZER_MODEL, *NAMING_FILES) if name in found
            }
        return HUGGING_FACE, {name: found[name] for name in HUGGING_FACE_FILES if name in found}
    if path.suffix == ".json":
        return HUGGING_FACE, {TOKENIZER_JSON: path, **_inside(path.parent, HUGGING_FACE_FILES[1:])}
    return SENTENCEPIECE, {TOKENIZER_MODEL: path}


def library_of(path: str | Path) -> str:
    """What reads the tokenizer at `path`; raises UserError as :func:`locate`."""
    return locate(path)[0]


def read_tokenizer_files(path: str | Path) -> TokenizerFiles:
    """The tokenizer in a directory, a tokenizer.json with what lies beside it, or a SentencePiece model.

    Raises:
        UserError: it cannot be read, is larger than any tokenizer, or a link leads out of the directory.
    """
    library, paths = locate(path)
    name = paths[TOKENIZER_MODEL] if library == SENTENCEPIECE else path
    contents = {each: read_whole(file, LARGEST_TOKENIZER) for each, file in paths.items()}
    return TokenizerFiles(library, str(name), contents)


def tokenizer_paths(directory: Path) -> dict[str, Path]:
    """The files of a directory that may belong to a tokenizer, by name.

    Raises:
        UserError: there is neither tokenizer.json nor tokenizer.model, or a link leads out of the directory.
    """
    found = _inside(directory, (TOKENIZER_MODEL, *HUGGING_FACE_FILES))
    if TOKENIZER_JSON in found or TOKENIZER_MODEL in found:
        return found
    advice = ""
    if _inside(directory, ("vocab.json", "vocab.txt", "tekken.json", "tiktoken.model")):
        advice = "; have transformers write it: AutoTokenizer.from_pretrained(D).save_pretrained(D)"
    raise UserError(f"{directory} holds neither {TOKENIZER_JSON} nor {TOKENIZER_MODEL}{advice}")


def _inside(directory: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Those of the named files that are there. Their content may be published with a checkpoint, so that a
    link must not fetch it from elsewhere.
    """
    found = {}
    for name in names:
        path = directory / name
        try:
            if not path.is_file():
                continue
        except OSError as error:
            raise UserError(f"cannot read the tokenizer {path}: {error.strerror}") from None
        if leads_out(path, directory):
            raise UserError(f"{path} is a link out of its directory; copy the file there")
        found[name] = path
    return found


def read_whole(path: Path, largest: int, kind: str = "tokenizer") -> bytes:
    """A file of a tokenizer's directory.

    Raises:
        UserError: it cannot be read, is a Git LFS pointer, or is larger than any ``kind`` is.
    """
    try:
        refuse_lfs_pointer(path)
        with path.open("rb") as stream:
            content = stream.read(largest + 1)
    except OSError as error:
        raise UserError(f"cannot read the {kind} {path}: {error.strerror}") from error
    if len(content) > largest:
        raise UserError(f"{path} has more than {largest:,} bytes; no {kind} is that large")
    return content
