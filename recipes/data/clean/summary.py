"""What a cleaning job did, from the statistics of its tasks, and the table that is printed of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recipes.config.clean_schema import CleanConfig
from recipes.counts import counted
from recipes.data.clean.plan import filters

REPORT = "report.json"
"""The file of a job's summary."""
TALLY = "🧮 - TALLY"
"""Prefix of the names of counting steps; after a colon follows the name of the filter they come after."""
Summary = dict[str, Any]
"""{"sources" | "languages": {name: {"filters": {filter: counts}, "kept": counts, "pii": {kind: n}}}, ...}"""


def summarize(config: CleanConfig, logs: Path) -> Summary:
    """The counts of all tasks, by source and by language."""
    counts, n_grams, seconds = _collect(logs)
    sources = {
        name: {"language": source.language} | _account(config, counts, name)
        for name, source in config.data.sources.items()
    }
    languages: dict[str, Any] = {}
    for source in sources.values():
        languages[source["language"]] = _add(languages.get(source["language"], {}), source)
    return {
        "format": 1,
        "languages": languages,
        "sources": sources,
        "benchmark_n_grams": dict(sorted(n_grams.items())),
        "task_seconds": {name: round(value, 2) for name, value in seconds.items()},
    }


def _collect(logs: Path) -> tuple[Counter[tuple[str, str, str, str]], Counter[str], dict[str, float]]:
    """(kind, source, filter, reason) -> number; the benchmarks' n-grams; seconds of all tasks by step."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    n_grams: Counter[str] = Counter()
    seconds: dict[str, float] = {}
    for file in sorted(logs.glob("*/stats/*.json")):
        reasons: list[tuple[str, str, str, float]] = []
        for step in json.loads(file.read_text(encoding="utf-8")):
            seconds[step["name"]] = seconds.get(step["name"], 0.0) + _total(step["time_stats"])
            for label, value in step["stats"].items():
                kind, _, rest = label.partition("|")
                source, separator, what = rest.partition("|")
                if not separator:
                    continue  # One of datatrove's own counts.
                if kind == "n_grams":
                    n_grams[what] += int(_total(value))
                elif kind in ("pass", "pass_bytes"):
                    counts[kind, source, what, ""] += int(_total(value))
                elif kind == "pii":
                    counts[kind, source, "", what] += int(_total(value))
                else:
                    reasons.append((kind, source, what, _total(value)))
            # A filter's reasons belong to the tally that follows it, even if no document reached that one.
            type_, _, point = step["name"].partition(": ")
            if type_ == TALLY:
                for kind, source, reason, number in reasons:
                    counts[kind, source, point, reason] += int(number)
                reasons = []
    return counts, n_grams, seconds


def _total(value: Any) -> float:
    """datatrove writes a bare number if there are no details."""
    return float(value["total"] if isinstance(value, dict) else value)


def _account(config: CleanConfig, counts: Counter[tuple[str, str, str, str]], source: str) -> dict[str, Any]:
    table: dict[str, Any] = {}
    documents = size = 0
    for name in filters(config):
        kept, kept_bytes = counts["pass", source, name, ""], counts["pass_bytes", source, name, ""]
        reasons = {r: n for (kind, s, f, r), n in counts.items() if (kind, s, f) == ("drop", source, name)}
        if name == "read":
            documents = kept + sum(reasons.values())
            size = kept_bytes + sum(
                n for (kind, s, f, _), n in counts.items() if (kind, s, f) == ("drop_bytes", source, name)
            )
        dropped = documents - kept
        if name in ("exact_dedup", "minhash") and dropped:
            reasons = {"duplicate": dropped}
        table[name] = {
            "documents_in": documents,
            "bytes_in": size,
            "documents_kept": kept,
            "bytes_kept": kept_bytes,
            "documents_dropped": dropped,
            "bytes_dropped": size - kept_bytes,
            "reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        }
        documents, size = kept, kept_bytes
    pii = {what: n for (kind, s, _, what), n in counts.items() if (kind, s) == ("pii", source)}
    kept_counts = {
        "documents": counts["pass", source, "kept", ""],
        "bytes": counts["pass_bytes", source, "kept", ""],
    }
    return {"filters": table, "kept": kept_counts, "pii": dict(sorted(pii.items()))}


def _add(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """The sum of two nested dictionaries of numbers; `left` may be empty."""
    total = dict(left)
    for key, value in right.items():
        if isinstance(value, dict):
            total[key] = _add(total.get(key, {}), value)
        elif isinstance(value, int):
            total[key] = total.get(key, 0) + value
    return total


def row_of(name: str, counts: dict[str, Any]) -> tuple[str, ...]:
    """A filter's row: its name, documents in, kept, dropped, and MB in and kept."""
    return (
        name,
        *(f"{counts[f'documents_{what}']:,}" for what in ("in", "kept", "dropped")),
        *(f"{counts[f'bytes_{what}'] / 1e6:,.2f}" for what in ("in", "kept")),
    )


def masked(pii: dict[str, int]) -> str:
    """What was masked, in words."""
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in pii.items() if kind != "documents")
    return f"{kinds} (in {counted(pii.get('documents', 0), 'document')})" if kinds else "nothing"


def render(summary: Summary) -> str:
    """The table that is printed: for each language and filter what came in, what was dropped and why."""
    header = ("language", "filter", "documents in", "kept", "dropped", "MB in", "MB kept", "reasons")
    rows: list[tuple[str, ...]] = [header]
    for language, entry in summary["languages"].items():
        rows += _rows(language, entry)
    widths = [max(len(row[i]) for row in rows) for i in range(len(header) - 1)]
    lines = []
    for row in rows:
        cells = [row[i].ljust(widths[i]) if i < 2 else row[i].rjust(widths[i]) for i in range(len(widths))]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    for language, entry in summary["languages"].items():
        lines.append(f"masked in {language}: {masked(entry['pii'])}")
    return "\n".join(lines)


def _rows(language: str, entry: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    for name, counts in entry["filters"].items():
        reasons = ", ".join(f"{reason} {number}" for reason, number in counts["reasons"].items())
        yield (language, *row_of(name, counts), reasons)
    first = next(iter(entry["filters"].values()))
    kept = entry["kept"]
    yield (
        language,
        "all",
        f"{first['documents_in']:,}",
        f"{kept['documents']:,}",
        f"{first['documents_in'] - kept['documents']:,}",
        f"{first['bytes_in'] / 1e6:,.2f}",
        f"{kept['bytes'] / 1e6:,.2f}",
        "",
    )
