"""Refusals of single values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recipes.checks import hub_hint, one_of, refuse
from recipes.errors import UserError


def test_numbers_are_shown_in_groups() -> None:
    for value, shown in (
        (7_500_000, "7,500,000"),
        (-1, "-1"),
        (True, "True"),
        (0.5, "0.5"),
        ("12000", "12000"),
    ):
        with pytest.raises(UserError, match=f"^key={shown}: no$"):
            refuse("key", value, "no")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("BF16", "; did you mean bf16?"),
        ("bf61", "; did you mean bf16?"),
        ("half", "; here it is bf16"),
        ("x", ""),
    ],
)
def test_the_choice_that_was_meant(value: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"^key={value}: choose one of bf16, fp32{re.escape(hint)}$"):
        one_of("key", value, ("bf16", "fp32"), {"half": "bf16"})
    one_of("key", "fp32", ("bf16", "fp32"))


def test_names_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    assert "hf download google/gemma-3-270m --local-dir gemma-3-270m" in hub_hint("google/gemma-3-270m")
    for path in ("outputs/mine", "model.nemo", "a/b/c", "/shared/model", "../model"):
        assert hub_hint(path) == ""
