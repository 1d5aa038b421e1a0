"""docs/watch-a-run.md names every event that a run writes to metrics.jsonl."""

from __future__ import annotations

import re

from tests.support.paths import ROOT


def test_every_event_is_named() -> None:
    page = (ROOT / "docs/watch-a-run.md").read_text(encoding="utf-8")
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "recipes").rglob("*.py"))
    events = {name for text in sources for name in re.findall(r'"event": "(\w+)"', text)}
    assert {"started", "rolled_back"} <= events
    assert {name for name in events if f"`{name}`" not in page} == set()
