"""The page of a cleaning job: its table, and for each reason some of the documents that were dropped."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from recipes.files import atomic_write
from recipes.report.sections import printable
from recipes.report.style import CSS

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_SHOWN = 400
"""Characters of an example."""
_LANGUAGES = {"eng_Latn": "English", "hin_Deva": "Hindi", "hin_Latn": "Hindi in Latin letters"}
_TEXT_CELLS = """
td:first-child { white-space: nowrap; overflow-wrap: normal; }
td.why, th.why { text-align: left; white-space: normal; overflow-wrap: anywhere; }
"""


def write_page(summary: dict[str, Any], out: Path, examples: int) -> Path:
    """Writes report.html into the output directory."""
    page = render_page(summary, out, examples)
    target = out / "report.html"
    with atomic_write(target) as stream:
        stream.write(page.encode("utf-8", errors="replace"))
    return target


def render_page(summary: dict[str, Any], out: Path, examples: int) -> str:
    """The whole page as HTML; dropped documents are read from `out`/dropped."""
    name = escape(printable(out.name))
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{name}: cleaning report</title>",
        f"<style>{CSS}{_TEXT_CELLS}</style>",
    ]
    body = [
        f'<header><h1>{name}</h1><p class="sub">Cleaned text</p></header>',
        _tiles(summary),
        *(_table(_title(language), entry) for language, entry in summary["languages"].items()),
        _sources(summary),
        _examples(out / "dropped", examples),
        "<footer>Made from logs/ and dropped/; report.json has the same numbers.</footer>",
    ]
    lines = ["<!doctype html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", "<main>"]
    return "\n".join([*lines, *(part for part in body if part), "</main>", "</body>", "</html>", ""])


def _tiles(summary: dict[str, Any]) -> str:
    tiles = []
    for language, entry in summary["languages"].items():
        first = next(iter(entry["filters"].values()))
        share = entry["kept"]["bytes"] / first["bytes_in"] if first["bytes_in"] else 0.0
        title = escape(_title(language))
        hint = f"{entry['kept']['bytes'] / 1e6:,.1f} MB in {entry['kept']['documents']:,} documents"
        tiles.append(
            f'<div class="tile"><dt>{title}, kept</dt><dd>{share:.1%}<small>{escape(hint)}</small></dd></div>'
        )
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def _title(language: str) -> str:
    return _LANGUAGES.get(language, language)


def counted(name: str, counts: dict[str, Any]) -> tuple[str, ...]:
    """A filter's row: its name, documents in, kept, dropped, and MB in and kept."""
    return (
        name,
        *(f"{counts[f'documents_{what}']:,}" for what in ("in", "kept", "dropped")),
        *(f"{counts[f'bytes_{what}'] / 1e6:,.2f}" for what in ("in", "kept")),
    )


def masked(pii: dict[str, int]) -> str:
    """What was masked, in words."""
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in pii.items() if kind != "documents")
    return f"{kinds} (in {pii.get('documents', 0):,} documents)" if kinds else "nothing"


def _table(title: str, entry: dict[str, Any]) -> str:
    names = ("Filter", "Documents in", "Kept", "Dropped", "MB in", "MB kept")
    header = "".join(f"<th>{name}</th>" for name in names) + '<th class="why">Reasons</th>'
    rows = []
    for name, counts in entry["filters"].items():
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in counts["reasons"].items())
        cells = counted(name, counts)
        row = "".join(f"<td>{escape(printable(cell))}</td>" for cell in cells)
        rows.append(f'<tr>{row}<td class="why">{escape(printable(reasons))}</td></tr>')
    note = f'<p class="note">Masked: {escape(masked(entry["pii"]))}</p>'
    table = f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<section><h2>{escape(title)}</h2>{note}<div class="scroll">{table}</div></section>'


def _sources(summary: dict[str, Any]) -> str:
    rows = []
    for name, entry in summary["sources"].items():
        first = next(iter(entry["filters"].values()))
        kept = entry["kept"]
        cells = [
            f"{name} ({entry['language']})",
            f"{first['documents_in']:,}",
            f"{kept['documents']:,}",
            f"{first['bytes_in'] / 1e6:,.2f}",
            f"{kept['bytes'] / 1e6:,.2f}",
        ]
        rows.append(f"<tr>{''.join(f'<td>{escape(printable(cell))}</td>' for cell in cells)}</tr>")
    header = "".join(f"<th>{name}</th>" for name in ("Source", "Documents in", "Kept", "MB in", "MB kept"))
    table = f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<section><h2>Sources</h2><div class="scroll">{table}</div></section>'


def _examples(dropped: Path, number: int) -> str:
    if number == 0:
        return ""
    parts = []
    for folder in sorted(path for path in dropped.glob("*/*") if path.is_dir()):
        shown = "".join(_example(record) for record in itertools.islice(_records(folder), number))
        if shown:
            title = f"{folder.parent.name}: {folder.name}"
            parts.append(
                f'<section><h2>{escape(printable(title))}</h2><ul class="samples">{shown}</ul></section>'
            )
    return "".join(parts)


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("*.jsonl")):
        with file.open(encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)


def _example(record: dict[str, Any]) -> str:
    text = record["text"]
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    about = f"{record['clean_source']} · {record['id']} · {len(text):,} characters"
    for key in ("contaminated_ngram", "list_matches"):
        if key in record:
            about += f" · {key}: {record[key]}"
    lang = ' lang="hi"' if any("\u0900" <= character <= "\u097f" for character in shown) else ""
    return f'<li><p class="prompt">{escape(printable(about))}</p><p{lang}>{escape(printable(shown))}</p></li>'
