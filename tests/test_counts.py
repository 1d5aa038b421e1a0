"""Whole numbers as people write them."""

from __future__ import annotations

import argparse
import ast
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.counts import (
    BYTE_UNITS,
    amount_in_words,
    byte_count,
    count,
    counted,
    energy_in_words,
    size_in_words,
    time_in_words,
    whole_number,
)
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (20, 20),
        ("20", 20),
        ("-3", -3),
        ("7_500_000", 7_500_000),
        ("7,500,000", 7_500_000),
        ("1e9", 10**9),
        (1e9, 10**9),
        ("2E+3", 2000),
        ("10k", 10_000),
        ("500M", 500_000_000),
        ("500 m", 500_000_000),
        ("1.5B", 1_500_000_000),
        ("2G", 2_000_000_000),
        ("7.5T", 7_500_000_000_000),
        (".5k", 500),
        ("1.000000000001T", 1_000_000_000_001),
        # Binary fractions would say 9007199254740992 and 99999999999999991611392.
        ("9007199254740993", 9007199254740993),
        (1e23, 10**23),
        ("0.000000000000000000000001e24", 1),
    ],
)
def test_what_is_written_is_meant(written: object, meant: int) -> None:
    assert whole_number(written) == meant


@pytest.mark.parametrize(
    "written",
    [
        *(
            1.5,
            "1.5",
            "1.0005k",
            "1e-3",
            "1.0000000000000000000000000001T",
            True,
            None,
            "",
            "k",
            "1kk",
            "2KB",
        ),
        *("7,50", "1e", "inf", float("nan"), "1e9999999999", "0x10", "१२", "1 000", [3]),
    ],
)
def test_what_is_no_whole_number_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="is not a whole number"):
        whole_number(written)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("4MB", 4_000_000), ("500kB", 500_000), ("1.5 MiB", 1_572_864), ("70_000", 70_000), ("2g", 2 * 10**9)],
)
def test_bytes(written: str, meant: int) -> None:
    assert byte_count(written) == meant == whole_number(written, BYTE_UNITS)


@pytest.mark.parametrize("written", ["", "MB", "4x", "4 MB MB", "nan", "1.5", "2B"])
def test_other_sizes_are_refused(written: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number of bytes such as 2000, 2e6"):
        byte_count(written)


@given(st.integers())
def test_what_messages_show_can_be_written(number: int) -> None:
    assert count(f"{number:,}") == count(f"{number:_}") == count(str(number)) == number


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 shards"), (1, "1 shard"), (2, "2 shards"), (1200, "1,200 shards")]
)
def test_one_is_not_several(number: int, words: str) -> None:
    assert counted(number, "shard") == words


def test_several_may_have_a_form_of_their_own() -> None:
    assert counted(1, "process was", "processes were") == "1 process was"
    assert counted(3, "process was", "processes were") == "3 processes were"


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (3_745_924, "3.7 MB"),
        (999_950_000, "1.0 GB"),
        (41_000_000_000_000, "41,000.0 GB"),
    ],
)
def test_sizes_have_the_unit_that_fits(size: int, words: str) -> None:
    assert size_in_words(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (41.2e-6, "41.2 µs"),
        (0.0003, "300.0 µs"),
        (0.99996, "1.0 s"),
        (9.63, "9.6 s"),
        (59.97, "1.0 min"),
        (5400, "1.5 hours"),
        (47.8 * 3600, "47.8 hours"),
        (48 * 3600, "2.0 days"),
        (700 * 86_400, "700.0 days"),
        (3_910 * 86_400, "10.7 years"),
    ],
)
def test_times_have_the_unit_that_fits(seconds: float, words: str) -> None:
    assert time_in_words(seconds) == words


def test_small_amounts_are_not_nothing() -> None:
    energies = [energy_in_words(kwh) for kwh in (118_400, 1.1, 0.0204, 9.6e-6)]
    assert energies == ["118.4 MWh", "1.10 kWh", "20.4 Wh", "0.0096 Wh"]
    assert [amount_in_words(each) for each in (71_416, 3.944, 1.4e-5, 0)] == [
        "71,416",
        "3.94",
        "under 0.01",
        "0.00",
    ]


SEVERAL = re.compile(r"\((?:s|es)\)(?![\w(])")


def test_nothing_is_printed_as_one_or_several() -> None:
    """``1 task(s)`` and the like: counted() says it."""
    for room in ("recipes", "tools", "benchmarks"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    text = ast.unparse(node)
                    assert not SEVERAL.search(text), f"{path}:{node.lineno}: {text}"
