"""Writing a corpus, its benchmark and the manifest that describes both into a directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, TypedDict

from recipes.data.corpus.generate import build_benchmark, documents
from recipes.data.corpus.grammar import LANGUAGES, Language
from recipes.data.corpus.world import InventedWorld, make_world
from recipes.errors import UserError
from recipes.files import atomic_write, make_directory, sha256_file

MANIFEST = "manifest.json"
FORMAT = 1  # Raise it whenever the same arguments would produce different text.
LEAST_BYTES = 10_000
MOST_BYTES = 10_000_000_000
_VALID_SHARE = 20  # the validation text is one twentieth of the training text


class FileEntry(TypedDict):
    """What the manifest says of one file; `text_bytes` counts only its documents, or only its questions."""

    rows: int
    bytes: int
    text_bytes: int
    sha256: str


class Manifest(TypedDict):
    """The content of manifest.json."""

    format: int
    arguments: dict[str, int]
    facts: int
    files: dict[str, FileEntry]


def make_corpus(
    out: str | Path,
    *,
    size: int = 4_000_000,
    seed: int = 1,
    world_seed: int = 1,
    people: int = 32,
    force: bool = False,
) -> tuple[Manifest, bool]:
    """Write a corpus into the directory `out`.

    Args:
        out: the directory; created if it is missing.
        size: bytes of training text, both languages together; the document that reaches it is the last one.
        seed: decides which documents are written about the world.
        world_seed: decides the world's facts and the benchmark.
        people: how many people live in it.
        force: overwrite what the directory holds.

    Returns:
        The manifest, and whether anything was written: a directory that already holds exactly this corpus is
        left alone.

    Raises:
        UserError: an argument is out of range, `out` holds something else, or cannot be written.
    """
    if not LEAST_BYTES <= size <= MOST_BYTES:
        raise UserError(f"the size must be between {LEAST_BYTES:,} and {MOST_BYTES:,} bytes, not {size:,}")
    world = make_world(world_seed, people)
    out = Path(out)
    arguments = {"bytes": size, "seed": seed, "world_seed": world_seed, "people": people}
    if (present := _complete_corpus(out, arguments)) is not None:
        return present, False
    _prepare(out, force)
    files = _write_documents(out, world, seed, size)
    files |= _write_benchmark(out, world)
    manifest = Manifest(format=FORMAT, arguments=arguments, facts=len(world.facts), files=files)
    # Last: a directory with a manifest is complete.
    with atomic_write(out / MANIFEST, "w") as stream:
        json.dump(manifest, stream, indent=2)
        stream.write("\n")
    return manifest, True


def _complete_corpus(out: Path, arguments: dict[str, int]) -> Manifest | None:
    """The manifest in `out`, if it was made with `arguments` and its files are still as they were written."""
    try:
        manifest: Manifest = json.loads((out / MANIFEST).read_text("utf-8"))
        if manifest["format"] != FORMAT or manifest["arguments"] != arguments:
            return None
        intact = all(sha256_file(out / name) == entry["sha256"] for name, entry in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # No manifest, not one of ours, or a file is missing.
    return manifest if intact else None


def _prepare(out: Path, force: bool) -> None:
    """Create the directory, or make sure that it may be overwritten."""
    make_directory(out)
    if not any(out.iterdir()):
        return
    if not force:
        raise UserError(f"{out} is not empty and holds no such corpus; --force writes over it")
    # From here on the old manifest would describe a mixture of old and new files.
    (out / MANIFEST).unlink(missing_ok=True)


def _write_documents(out: Path, world: InventedWorld, seed: int, size: int) -> dict[str, FileEntry]:
    """Write both splits; no training document repeats one of the validation documents."""
    # Validation first: it is small enough to be kept in memory.
    valid = list(_until(size // _VALID_SHARE, _in_turn(world, seed, "valid")))
    files = _write_split(out, "valid", valid)
    train = _in_turn(world, seed, "train", unwanted={text for _, text in valid})
    return files | _write_split(out, "train", _until(size, train))


def _in_turn(
    world: InventedWorld, seed: int, split: str, unwanted: Container[str] = frozenset()
) -> Iterator[tuple[Language, str]]:
    """Documents of the languages in turn: as many of each, because Hindi takes more bytes to say the same."""
    streams = {language: documents(world, language, seed, split) for language in LANGUAGES}
    while True:
        for language, stream in streams.items():
            yield language, next(text for text in stream if text not in unwanted)


def _until(size: int, texts: Iterable[tuple[Language, str]]) -> Iterator[tuple[Language, str]]:
    """Texts until `size` bytes are reached and every language has the same number of them."""
    written = 0
    for number, (language, text) in enumerate(texts, start=1):
        yield language, text
        written += len(text.encode())
        if written >= size and number % len(LANGUAGES) == 0:
            return


def _write_split(out: Path, split: str, texts: Iterable[tuple[Language, str]]) -> dict[str, FileEntry]:
    names = {language: f"{split}.{language}.jsonl" for language in LANGUAGES}
    with ExitStack() as stack:
        files = {
            language: _Rows(stack.enter_context(atomic_write(out / name))) for language, name in names.items()
        }
        for language, text in texts:
            files[language].write({"text": text, "lang": language}, text)
    return {names[language]: file.entry for language, file in files.items()}


def _write_benchmark(out: Path, world: InventedWorld) -> dict[str, FileEntry]:
    (out / "benchmark").mkdir(exist_ok=True)
    files = {}
    for language in LANGUAGES:
        name = f"benchmark/{language}.jsonl"
        with atomic_write(out / name) as stream:
            rows = _Rows(stream)
            for item in build_benchmark(world, language):
                rows.write(item, item["question"])
        files[name] = rows.entry
    return files


class _Rows:
    """A JSONL file that is counted and hashed while it is written."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.entry = FileEntry(rows=0, bytes=0, text_bytes=0, sha256=self._digest.hexdigest())

    def write(self, row: Mapping[str, object], text: str) -> None:
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        self._stream.write(line)
        self._digest.update(line)
        self.entry["rows"] += 1
        self.entry["bytes"] += len(line)
        self.entry["text_bytes"] += len(text.encode())
        self.entry["sha256"] = self._digest.hexdigest()
