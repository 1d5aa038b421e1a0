"""The comparison as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.counts import counted, size_in_words
from recipes.data.tokenizer_report.compare import Comparison
from recipes.data.tokenizer_report.measure import Measures
from recipes.data.tokenizer_report.text_table import COLUMNS, cells_of, inexact, probe_cell
from recipes.report.charts import COLOURS, Bar, BarChart, BarGroup, bar_chart
from recipes.report.rendering import write_page

# Rate -> its heading and what it means.
_CHARTS = {
    "tokens_per_word": ("Tokens per word", "Fertility: tokens over words between spaces. Fewer is better."),
    "bytes_per_token": ("Bytes per token", "UTF-8; a Devanagari letter has three. More is better."),
    "whole_words": ("Words kept whole", "Words of letters and marks that are one token."),
    "cut_clusters": (
        "Grapheme clusters cut",
        "Of clusters of two characters and more: a vowel sign, virama or nukta separated from its consonant.",
    ),
    "cut_conjuncts": ("Conjuncts cut", "Consonants joined by virama that are split over several tokens."),
    "parts_of_characters": (
        "Byte tokens",
        "Tokens for part of a character: SentencePiece's byte fallback, or bytes that byte-level BPE "
        "did not join.",
    ),
}


def write_tokenizer_page(comparison: Comparison, path: Path) -> None:
    """Writes the comparison's page.

    Raises:
        UserError: it cannot be written.
    """
    write_page(path, "recipes.data.tokenizer_report/tokenizers.html", **contents(comparison))


def contents(comparison: Comparison) -> dict[str, Any]:
    """What the template tokenizers.html shows."""
    names = list(comparison.vocabularies)
    counted = f"{len(names)} tokenizers" if len(names) != 1 else "1 tokenizer"
    return {
        "title": "Tokenizer report",
        "heading": "Tokenizer report",
        "subtitle": f"{counted}; texts: {', '.join(comparison.texts)}",
        "charts": [
            _chart(comparison.texts, names, key, title, note) for key, (title, note) in _CHARTS.items()
        ],
        "text_header": ["Tokenizer", "tokens", *(title for title, _ in COLUMNS.values())],
        "texts": [
            (f"Text: {label}", _size(row), _text_lines(comparison, row))
            for label, row in comparison.texts.items()
        ],
        "probe_chart": _chart(
            comparison.probes,
            names,
            "tokens_per_word",
            "Probes: tokens per word",
            "Tokens over words between spaces, on the built-in sentences.",
        ),
        "probe_header": ["Probe", *names],
        "probes": [[probe, *map(probe_cell, row.values())] for probe, row in comparison.probes.items()],
        "inexact": inexact(comparison),
    }


def _chart(
    rows: dict[str, dict[str, Measures]], names: list[str], key: str, title: str, note: str
) -> BarChart | None:
    """A group per text or probe, in which every tokenizer has a bar; None if nothing was counted."""
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    groups = []
    for label, row in rows.items():
        values = {name: found.rates()[key] for name, found in row.items()}
        bars = [Bar(name, value, colours[name]) for name, value in values.items() if value is not None]
        if bars:
            groups.append(BarGroup(label, bars))
    return bar_chart(title, groups, note=note, percent=COLUMNS[key][1])


def _size(row: dict[str, Measures]) -> str:
    first = next(iter(row.values()))
    return f"{counted(first.documents, 'document')}, {size_in_words(first.bytes)}"


def _text_lines(comparison: Comparison, row: dict[str, Measures]) -> list[list[str]]:
    return [[name, f"{comparison.vocabularies[name]:,}", *cells_of(found)] for name, found in row.items()]
