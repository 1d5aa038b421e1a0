"""Pipeline blocks used beside datatrove's own: reading, filters by language, masking, counting."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.text import TERMINAL_PUNCTUATION

from recipes.config.clean_schema import GopherConfig, ListsConfig, QualityConfig, TextSource
from recipes.data.clean import pii
from recipes.data.clean.blocklists import count_matches, document_hash, read_hashes, read_words
from recipes.data.clean.languages import Identifier
from recipes.data.clean.plan import Piece
from recipes.data.clean.summary import TALLY
from recipes.data.clean.word_boundaries import SpacedWords
from recipes.data.text.compression import DAMAGE, damaged, open_stream
from recipes.data.text.json_lines import BadRecord, NoText, as_text, parse_line, read_lines, text_of
from recipes.data.text.nfc import nfc

SOURCE, LANGUAGE, RECORD = "clean_source", "clean_language", "record"
"""Keys of a document's metadata: name and language of its source, and the other fields of its line."""
REASON, PROBLEM = "filter_reason", "read_problem"
"""Keys of a dropped document's metadata: the reason in one word, and what was wrong with its line."""
_WORDS = SpacedWords()
# In words. In a shorter text even an n-gram that occurs once exceeds the share allowed to repeated ones.
_REPETITION_FROM = 50
_SENTENCE_ENDS = tuple(TERMINAL_PUNCTUATION) + tuple(
    f"{mark}{quote}" for mark in ".!?।॥" for quote in "\"'”’)"
)


def label(kind: str, document: Document, what: str = "") -> str:
    """The name of a count in datatrove's statistics; `summary.py` parses it."""
    return "|".join((kind, document.metadata[SOURCE], what))


def size(document: Document) -> int:
    """Bytes of a document's text in UTF-8."""
    return len(document.text.encode())


class Meter:
    """Tells the parent process how many bytes a task has read, in a small file, once a second."""

    def __init__(self, folder: Path, rank: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{rank:05d}"
        self._total, self._written = 0, 0.0

    def add(self, number: int) -> None:
        self._total += number
        if time.monotonic() - self._written > 1:
            self._path.write_text(str(self._total))
            self._written = time.monotonic()


class ReadPieces(PipelineStep):
    """Documents of the input files, in NFC and without surrounding white space.

    Lines that are not documents (not JSON, no text ...) are dropped with a reason, as by a filter.
    """

    type, name = "📖 - READER", "pieces"

    def __init__(
        self, plan: list[list[Piece]], sources: dict[str, TextSource], dropped: JsonlWriter, meter: Path
    ) -> None:
        super().__init__()
        self.plan, self.sources, self.dropped, self.meter = plan, sources, dropped, meter

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        meter = Meter(self.meter, rank)
        with self.dropped as dropped:
            for piece in self.plan[rank]:
                for line, offset in _lines(piece):
                    meter.add(len(line))
                    document, reason = self._parse(piece, line, offset)
                    if reason is None:
                        yield document
                        continue
                    self.stat_update(label("drop", document, reason))
                    self.stat_update(label("drop_bytes", document, reason), value=size(document))
                    document.metadata[REASON] = reason
                    dropped.write(document, rank)

    def _parse(self, piece: Piece, line: bytes, offset: int) -> tuple[Document, str | None]:
        source = self.sources[piece.source]
        metadata = {SOURCE: piece.source, LANGUAGE: source.language, RECORD: {}}
        document = Document("", f"{Path(piece.path).name}:{offset}", [], metadata)
        try:
            record = parse_line(line)
            text = text_of(record, source.text_key)
        except BadRecord as bad:
            document.text = line.decode(errors="replace")
            metadata[PROBLEM] = str(bad)
            return document, "no_text" if isinstance(bad, NoText) else "not_json"
        document.text = nfc(text).strip()
        del record[source.text_key]
        given = record.pop("id", None)
        if given is not None:
            document.id = as_text(given)
        metadata[RECORD] = _writable(record)
        return document, None if document.text else "empty"


def _lines(piece: Piece) -> Iterator[tuple[bytes, int]]:
    """The lines that begin in a piece and the offsets at which they begin; blank lines are left out."""
    try:
        with open_stream(piece.path) as stream:
            for _, offset, line in read_lines(stream, piece.start, piece.stop):
                yield line, offset
    except DAMAGE as error:
        raise damaged(piece.path, error) from error


def _writable(value: Any) -> Any:
    """A field as orjson, which writes the output, takes it: characters, and integers of up to 64 bits.

    Longer integers become strings of their digits: rounding could make two different ones equal.
    """
    if isinstance(value, str):
        return value if value.isascii() else as_text(value)
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 64 else str(value)
    if isinstance(value, dict):
        return {_writable(key): _writable(inner) for key, inner in value.items()}
    return [_writable(inner) for inner in value] if isinstance(value, list) else value


class ReadWork(PipelineStep):
    """What the same task of an earlier stage wrote to work/.

    datatrove identifies duplicates by their position in a task's file, but its own reader gives a task the
    file of another one if some task had nothing to write.
    """

    type, name = "📖 - READER", "work"

    def __init__(self, folder: Path, meter: Path) -> None:
        super().__init__()
        self.folder, self.meter = folder, meter

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        path = self.folder / f"{rank:05d}.jsonl"
        if not path.exists():
            return
        meter = Meter(self.meter, rank)
        with path.open("rb") as stream:
            for line in stream:
                meter.add(len(line))
                yield Document(**orjson.loads(line))


def as_work(self: JsonlWriter, document: Document) -> dict[str, Any]:
    """How documents are stored between the stages."""
    return {"text": document.text, "id": document.id, "metadata": document.metadata}


def as_record(self: JsonlWriter, document: Document) -> dict[str, Any]:
    """How documents are stored in kept/ and dropped/: the fields of the input's line, and ours."""
    ours = {key: value for key, value in document.metadata.items() if key != RECORD}
    return {"id": document.id} | document.metadata[RECORD] | {"text": document.text} | ours


class Tally(PipelineStep):
    """Counts the documents and bytes that pass, by source, after the filter `point`."""

    type = TALLY

    def __init__(self, point: str) -> None:
        self.name = point
        super().__init__()

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in data:
            self.stat_update(label("pass", document, self.name))
            self.stat_update(label("pass_bytes", document, self.name), value=size(document))
            yield document


class ReasonFilter(BaseFilter):
    """A filter that counts its reasons by source."""

    def filter_batch(self, batch: list[Document]) -> list[bool | tuple[bool, str]]:
        results: list[bool | tuple[bool, str]] = super().filter_batch(batch)
        for document, result in zip(batch, results, strict=True):
            if isinstance(result, tuple) and not result[0]:
                self.stat_update(label("drop", document, result[1]))
        return results


class LanguageFilter(ReasonFilter):
    """Keeps documents in the language that their source is declared to be in."""

    name = "🌍 language and script"

    def __init__(self, identifier: Identifier, dropped: JsonlWriter) -> None:
        super().__init__(dropped)
        self.identifier = identifier

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        language = self.identifier(doc.text)
        return True if language == doc.metadata[LANGUAGE] else (False, f"is_{language}")


class QualityFilter(ReasonFilter):
    """Gopher's quality and repetition rules with the thresholds and words of each document's language."""

    name = "🥇 Gopher by language"

    def __init__(self, config: QualityConfig, dropped: JsonlWriter) -> None:
        super().__init__(dropped)
        self.thresholds = dict(config.gopher)
        self.quality = {name: gopher_quality(gopher) for name, gopher in config.gopher.items()}
        self.repetition = {
            name: GopherRepetitionFilter(language=_WORDS)
            for name in (config.gopher if config.repetition else ())
        }

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        language = doc.metadata[LANGUAGE]
        # Quality first: its minimum number of words keeps very short texts away from the n-gram rules.
        result = self.quality[language].filter(doc)
        if result is not True:
            return False, result[1]
        share = self.thresholds[language].min_sentence_end_lines
        if share and sentence_end_share(doc.text) < share:
            return False, "too_few_sentence_ends"
        if language not in self.repetition or len(doc.text.split()) < _REPETITION_FROM:
            return True
        result = self.repetition[language].filter(doc)
        return True if result is True else (False, result[1])


def gopher_quality(config: GopherConfig) -> GopherQualityFilter:
    """datatrove's filter with a language's stop words and thresholds."""
    return GopherQualityFilter(
        min_doc_words=config.min_doc_words,
        max_doc_words=config.max_doc_words,
        min_avg_word_length=config.min_avg_word_length,
        max_avg_word_length=config.max_avg_word_length,
        max_symbol_word_ratio=config.max_symbol_word_ratio,
        max_bullet_lines_ratio=config.max_bullet_lines_ratio,
        max_ellipsis_lines_ratio=config.max_ellipsis_lines_ratio,
        max_non_alpha_words_ratio=config.min_alpha_words_ratio,  # A minimum, whatever datatrove calls it.
        min_stop_words=config.min_stop_words,
        stop_words=list(config.stop_words),
        language=_WORDS,
    )


def sentence_end_share(text: str) -> float:
    """The share of non-blank lines that end like a sentence in any script: with a full stop, a danda ..."""
    lines = [line for line in text.splitlines() if line.strip()]
    return sum(line.rstrip().endswith(_SENTENCE_ENDS) for line in lines) / len(lines) if lines else 0.0


class ListFilter(ReasonFilter):
    """Drops documents by their hash, or by the words in them."""

    name = "🚫 lists"

    def __init__(self, config: ListsConfig, dropped: JsonlWriter) -> None:
        super().__init__(dropped)
        self.config = config
        self._loaded: tuple[Any, dict[str, str]] | None = None

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        if self._loaded is None:  # Loaded in the task, so that the lists are not pickled with the job.
            paths = {name: words.path for name, words in self.config.words.items()}
            self._loaded = read_words(paths), read_hashes(self.config.hashes)
        phrases, hashes = self._loaded
        if hashes and (name := hashes.get(document_hash(doc.text))):
            return False, name
        for name, number in count_matches(doc.text, phrases).items() if phrases else ():
            if number >= self.config.words[name].min_matches:
                doc.metadata["list_matches"] = number
                return False, name
        return True


class MaskPii(PipelineStep):
    """Replaces personal data with tokens such as <PHONE>, and counts them by source and kind."""

    type, name = "📞 - MASK", "personal data"

    def __init__(self, kinds: Iterable[str]) -> None:
        super().__init__()
        self.kinds = tuple(kinds)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in data:
            with self.track_time():
                document.text, counts = pii.mask(document.text, self.kinds)
            self._count(document, counts)
            yield document

    def _count(self, document: Document, counts: Counter[str]) -> None:
        for kind, number in counts.items():
            self.stat_update(label("pii", document, kind), value=number)
        if counts:
            self.stat_update(label("pii", document, "documents"))
