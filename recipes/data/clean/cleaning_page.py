"""The page of a cleaning job: its tables, and for each reason some of the documents that were dropped."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.counts import counted, size_in_words
from recipes.data.clean.summary import Summary, masked, row_of
from recipes.report.rendering import Tile, write_page

_SHOWN = 400
"""Characters of an example."""
_LANGUAGES = {"eng_Latn": "English", "hin_Deva": "Hindi", "hin_Latn": "Hindi in Latin letters"}
# What ReadPieces calls a document that brings no id of its own.
_PLACE = re.compile(r"(?P<file>.+\.jsonl?(?P<compressed>\.(?:gz|zst|bz2))?):(?P<offset>\d{1,18})")


@dataclass(frozen=True)
class Example:
    """The beginning of a dropped document, and what is known of it."""

    about: str
    text: str


def write_cleaning_page(summary: Summary, out: Path, examples: int) -> Path:
    """Writes report.html into the output directory and returns its path.

    Args:
        summary: the job's counts.
        out: the output directory; the examples are read from ``out/dropped``.
        examples: how many dropped documents are shown for each reason.

    Raises:
        UserError: it cannot be written.
    """
    return write_page(
        out / "report.html",
        "recipes.data.clean/cleaning.html",
        title=f"{out.name}: cleaning report",
        heading=out.name,
        subtitle="Cleaned text",
        tiles=[_tile(language, entry) for language, entry in summary["languages"].items()],
        languages=[
            (_LANGUAGES.get(language, language), masked(entry["pii"]), _filter_lines(entry))
            for language, entry in summary["languages"].items()
        ],
        sources=[_source_line(name, entry) for name, entry in summary["sources"].items()],
        examples=_examples(out / "dropped", examples),
    )


def _tile(language: str, entry: dict[str, Any]) -> Tile:
    first = next(iter(entry["filters"].values()))
    share = entry["kept"]["bytes"] / first["bytes_in"] if first["bytes_in"] else 0.0
    hint = f"{size_in_words(entry['kept']['bytes'])} in {counted(entry['kept']['documents'], 'document')}"
    return Tile(f"{_LANGUAGES.get(language, language)}, kept", f"{share:.1%}", hint)


def _filter_lines(entry: dict[str, Any]) -> list[list[str]]:
    return [
        [*row_of(name, counts), ", ".join(f"{reason} {n:,}" for reason, n in counts["reasons"].items())]
        for name, counts in entry["filters"].items()
    ]


def _source_line(name: str, entry: dict[str, Any]) -> list[str]:
    first = next(iter(entry["filters"].values()))
    kept = entry["kept"]
    return [
        f"{name} ({entry['language']})",
        f"{first['documents_in']:,}",
        f"{kept['documents']:,}",
        f"{first['bytes_in'] / 1e6:,.2f}",
        f"{kept['bytes'] / 1e6:,.2f}",
    ]


def _examples(dropped: Path, number: int) -> list[tuple[str, list[Example]]]:
    """The first `number` documents that each filter dropped for each of its reasons."""
    if number == 0:
        return []
    sections = []
    for folder in sorted(path for path in dropped.glob("*/*") if path.is_dir()):
        shown = [_example(record) for record in itertools.islice(_records(folder), number)]
        if shown:
            sections.append((f"{folder.parent.name}: {folder.name}", shown))
    return sections


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("*.jsonl")):
        with file.open(encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)


def _example(record: dict[str, Any]) -> Example:
    text = record["text"]
    about = [record["clean_source"], _place(record["id"]), f"{len(text):,} characters"]
    about += [f"{key}: {record[key]}" for key in ("contaminated_ngram", "list_matches") if key in record]
    return Example(" · ".join(about), text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _place(document_id: str) -> str:
    """An id as it is shown: one that tells a place must not look like a file and a line."""
    match = _PLACE.fullmatch(document_id)
    if match is None:
        return document_id
    unpacked = ", unpacked" if match["compressed"] else ""
    return f"byte {int(match['offset']):,} of {match['file']}{unpacked}"
