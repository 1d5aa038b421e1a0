"""The line that long runs show."""

import re

import pytest

from recipes.console import Progress


@pytest.mark.parametrize(
    ("unit", "tokens", "line"),
    [
        ("MB", 12, r"2 of 10 MB \(25%\), 12 tokens, [\d.]+ MB/s, \d+:\d\d:\d\d left"),
        ("M tokens", None, r"2 of 10 M tokens \(25%\), [\d.]+ M tokens/s, \d+:\d\d:\d\d left"),
    ],
)
def test_line(capsys: pytest.CaptureFixture[str], unit: str, tokens: int | None, line: str) -> None:
    with Progress(10_000_000, enabled=True, unit=unit) as shown:
        shown._interval = 0
        shown.add(0, tokens)  # nothing done: no rate yet
        assert capsys.readouterr().err == ""
        shown.add(2_500_000, tokens)
        assert re.fullmatch(line, capsys.readouterr().err.strip())
        shown.add(8_000_000, tokens)  # more than was announced
        assert capsys.readouterr().err.strip().endswith("0:00:00 left")
