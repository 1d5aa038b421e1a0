"""The comparison as one self-contained HTML page."""

from html import escape
from pathlib import Path

from recipes.data.tokenizer_report.compare import Comparison
from recipes.data.tokenizer_report.measure import Measures
from recipes.data.tokenizer_report.text_table import COLUMNS, cells_of, inexact, probe_cell
from recipes.files import atomic_write
from recipes.report.page import document
from recipes.report.sections import legend, printable
from recipes.report.svg import Bar, BarGroup, bar_chart

_COLOURS = ("c1", "c2", "c3", "c4", "c5", "before")
# Rate -> heading and what it means.
_CHARTS = {
    "tokens_per_word": ("Tokens per word", "Fertility: tokens over words between spaces. Fewer is better."),
    "bytes_per_token": ("Bytes per token", "UTF-8; a Devanagari letter has three. More is better."),
    "whole_words": ("Words kept whole", "Words of letters and marks that are one token."),
    "cut_clusters": (
        "Grapheme clusters cut",
        "Of clusters of two characters and more: a vowel sign, virama or nukta parted from its consonant.",
    ),
    "cut_conjuncts": ("Conjuncts cut", "Consonants joined by virama that lie in several tokens."),
    "parts_of_characters": (
        "Byte tokens",
        "Tokens for a part of one character: SentencePiece's byte fallback, or bytes that byte-level BPE "
        "did not join.",
    ),
}


def write_page(comparison: Comparison, path: Path) -> None:
    """
    Raises:
        UserError: it cannot be written.
    """
    with atomic_write(path) as file:
        file.write(render(comparison).encode("utf-8", errors="replace"))


def render(comparison: Comparison) -> str:
    """The whole page as HTML."""
    names = list(comparison.vocabularies)
    title = "Tokenizer report"
    heading = f"{len(names)} tokenizers" if len(names) != 1 else "1 tokenizer"
    texts = ", ".join(comparison.texts)
    sub = escape(printable(f"{heading}; texts: {texts}"))
    body = [
        f'<header><h1>{title}</h1><p class="sub">{sub}</p></header>',
        _pairs([_chart(comparison, key) for key in _CHARTS]),
        *(_table(comparison, label) for label in comparison.texts),
        _probe_chart(comparison),
        _probe_table(comparison),
        _inexact(comparison),
        "<footer>Made by tools.tokenizer_report.</footer>",
    ]
    return document(title, [part for part in body if part])


def _chart(comparison: Comparison, key: str) -> str:
    title, note = _CHARTS[key]
    return _bars(comparison.texts, title, note, key, list(comparison.vocabularies), 560)


def _probe_chart(comparison: Comparison) -> str:
    note = "Tokens over words between spaces, on the built-in sentences."
    return _bars(
        comparison.probes, "Probes: tokens per word", note, "tokens_per_word",
        list(comparison.vocabularies), 1000,
    )  # fmt: skip


def _bars(
    rows: dict[str, dict[str, Measures]], title: str, note: str, key: str, names: list[str], width: int
) -> str:
    colour = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    groups = []
    for label, row in rows.items():
        values = {name: found.rates()[key] for name, found in row.items()}
        bars = [
            Bar(f"{printable(name)}, {printable(label)}", value, colour[name])
            for name, value in values.items()
            if value is not None
        ]
        if bars:
            groups.append(BarGroup(printable(label), bars))
    if not groups:
        return ""
    chart = bar_chart(title, groups, width, 300, percent=COLUMNS[key][1])
    keys = legend([(colour[name], printable(name)) for name in names])
    head = f'<h2>{title}</h2><p class="note">{escape(note)}</p>'
    return f'<section>{head}{keys}<div class="scroll">{chart}</div></section>'


def _table(comparison: Comparison, label: str) -> str:
    row = comparison.texts[label]
    first = next(iter(row.values()))
    note = f"{first.documents:,} documents, {first.bytes / 1e6:.2f} MB"
    heads = ["Tokenizer", "tokens", *(title for title, _ in COLUMNS.values())]
    cells = [[name, f"{comparison.vocabularies[name]:,}", *cells_of(found)] for name, found in row.items()]
    return _section(f"Text: {label}", note, _html_table(heads, cells))


def _probe_table(comparison: Comparison) -> str:
    note = "Tokens per word and share of grapheme clusters cut; * does not decode exactly."
    rows = [[probe, *map(probe_cell, row.values())] for probe, row in comparison.probes.items()]
    return _section("Probes", note, _html_table(["Probe", *comparison.vocabularies], rows))


def _inexact(comparison: Comparison) -> str:
    notes = inexact(comparison)
    if not notes:
        return _section("Round trips", "Every document comes back as it was.", "")
    items = "".join(f'<li><p lang="hi">{escape(printable(note))}</p></li>' for note in notes)
    return _section("Not exact", "Text, then what decoding makes of it.", f'<ul class="samples">{items}</ul>')


def _section(title: str, note: str, content: str) -> str:
    head = f'<h2>{escape(printable(title))}</h2><p class="note">{escape(note)}</p>'
    return f"<section>{head}{content}</section>"


def _html_table(heads: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(printable(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="scroll"><table><thead>{line(heads, "th")}</thead><tbody>{body}</tbody></table></div>'


def _pairs(parts: list[str]) -> str:
    shown = [part for part in parts if part]
    return f'<div class="pair">{"".join(shown)}</div>' if shown else ""
