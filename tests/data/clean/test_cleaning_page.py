"""The page of a cleaning job, from counts and dropped documents that are made up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from recipes.data.clean.cleaning_page import write_cleaning_page
from tests.support.html_page import HOSTILE, Page


def summary_of(name: str) -> dict[str, Any]:
    """Counts in which every text is `name`."""
    counts = {f"{what}_{which}": 4 for what in ("documents", "bytes") for which in ("in", "kept", "dropped")}
    entry = {
        "filters": {name: counts | {"reasons": {name: 4}}},
        "kept": {"documents": 4, "bytes": 4},
        "pii": {name: 2, "documents": 1},
    }
    return {"languages": {name: entry}, "sources": {name: entry | {"language": name}}}


def dropped(out: Path, reason: str, *records: dict[str, Any]) -> None:
    folder = out / "dropped" / "quality" / reason
    folder.mkdir(parents=True)
    text = "".join(json.dumps({"clean_source": "en"} | record) + "\n" for record in records)
    (folder / "00000.jsonl").write_text(text, encoding="utf-8")


def test_hostile_texts_are_escaped(tmp_path: Path) -> None:
    out = tmp_path / "<script>alert(1)<"
    everywhere = dict.fromkeys(("clean_source", "id", "text", "contaminated_ngram", "list_matches"), HOSTILE)
    dropped(out, "<b>", everywhere)
    page = Page(write_cleaning_page(summary_of(HOSTILE), out, 3))
    assert "<script>alert(1)<" in page.text and "quality: <b>" in page.text
    # A tile; a section's title, what was masked, a filter and its reason; a source and its language; the
    # example's text and what is said of it.
    page.check_hostile(1 + 4 + 2 + 1 + 4)


def test_a_place_does_not_look_like_a_line(tmp_path: Path) -> None:
    ids = ["en.jsonl:401245", "en.jsonl.zst:0", "doc:17", "https:5", "a.jsonl:12:x", "a b.json:1000"]
    dropped(tmp_path, "short", *({"id": name, "text": "some text"} for name in ids))
    page = Page(write_cleaning_page(summary_of("x"), tmp_path, len(ids)))
    assert re.findall("en · (.*) · 9 characters", page.text) == [
        "byte 401,245 of en.jsonl",
        "byte 0 of en.jsonl.zst, unpacked",
        "doc:17",
        "https:5",
        "a.jsonl:12:x",
        "byte 1,000 of a b.json",
    ]


def test_examples(tmp_path: Path) -> None:
    texts = ["a" * 401, "हिन्दी में एक वाक्य।", "third"]
    dropped(tmp_path, "short", *({"id": "1", "text": text} for text in texts))
    page = Page(write_cleaning_page(summary_of("x"), tmp_path, 2))
    assert "a" * 400 + "…" in page.text and "a" * 401 not in page.text and "third" not in page.text
    assert [tag for tag, attrs in page.tags if attrs.get("lang") == "hi"] == ["p"]
    assert "short" not in Page(write_cleaning_page(summary_of("x"), tmp_path, 0)).text
