"""The comparison as tables for a terminal."""

from collections.abc import Sequence

from recipes.counts import counted, size_in_words
from recipes.data.tokenizer_report.compare import Comparison
from recipes.data.tokenizer_report.measure import Measures

# Rate -> its heading, and whether it is a share.
COLUMNS: dict[str, tuple[str, bool]] = {
    "tokens_per_word": ("tokens/word", False),
    "bytes_per_token": ("bytes/token", False),
    "characters_per_token": ("chars/token", False),
    "whole_words": ("whole words", True),
    "cut_clusters": ("clusters cut", True),
    "cut_conjuncts": ("conjuncts cut", True),
    "unknown": ("unknown", True),
    "parts_of_characters": ("byte tokens", True),
    "exact_documents": ("exact", True),
}


def as_text(comparison: Comparison) -> str:
    """A table per text, one of the probes, and the texts that do not decode to what they were."""
    parts = []
    for label, row in comparison.texts.items():
        first = next(iter(row.values()))
        head = f"{label}: {counted(first.documents, 'document')}, {size_in_words(first.bytes)}"
        cells = [
            [name, f"{comparison.vocabularies[name]:,}", *cells_of(found)] for name, found in row.items()
        ]
        heads = ["tokenizer", "tokens", *(title for title, _ in COLUMNS.values())]
        parts.append(f"{head}\n{table([heads, *cells])}")
    parts.append(_probes(comparison))
    notes = inexact(comparison)
    if notes:
        parts.append("not exact (text -> decoded):\n" + "\n".join(f"  {note}" for note in notes))
    return "\n\n".join(parts)


def _probes(comparison: Comparison) -> str:
    heads = ["probe", *comparison.vocabularies]
    rows = []
    for probe, row in comparison.probes.items():
        rows.append([probe, *(probe_cell(found) for found in row.values())])
    return f"probes: tokens/word, share of clusters cut; * does not decode exactly\n{table([heads, *rows])}"


def probe_cell(found: Measures) -> str:
    """Tokens per word and the share of clusters cut; an asterisk if a text does not decode exactly."""
    rates = found.rates()
    cut = shown(rates["cut_clusters"], share=True)
    return f"{shown(rates['tokens_per_word'])} {cut}{'' if found.first_inexact is None else '*'}"


def cells_of(found: Measures) -> list[str]:
    """One tokenizer's rates on one text, in the order of COLUMNS."""
    rates = found.rates()
    return [shown(rates[key], share) for key, (_, share) in COLUMNS.items()]


def inexact(comparison: Comparison) -> list[str]:
    """The tokenizers that do not decode a text to what it was, each with the first example."""
    return [
        f"{name}, {label}: {found.first_inexact}"
        for group in (comparison.texts, comparison.probes)
        for label, row in group.items()
        for name, found in row.items()
        if found.first_inexact is not None
    ]


def shown(value: float | None, share: bool = False) -> str:
    """Shares in percent, never rounded to 0 or 100 unless they are; a dash if nothing was counted."""
    if value is None:
        return "-"
    if not share:
        return f"{value:.3f}"
    percent = f"{value * 100:.2f}"
    if (percent == "0.00" and value > 0) or (percent == "100.00" and value < 1):
        percent = f"{value * 100:.6f}".rstrip("0") if value > 0.5 else "<0.01"
    return f"{percent} %"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
