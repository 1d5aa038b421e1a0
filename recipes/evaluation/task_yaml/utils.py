"""What the task files of this directory need beside templates."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

LETTERS = "ABCD"


def with_numbered_options(rows: Any) -> Any:
    """MILU: option1 to option4, and the right one's name. Rows without a right one are left out."""
    names = [f"option{number}" for number in range(1, 5)]
    return rows.filter(lambda row: row["target"] in names).map(
        lambda row: {"choices": [row[name] for name in names], "answer": names.index(row["target"])}
    )


def with_lettered_options(rows: Any) -> Any:
    """BhashaBench and ParamBench: option_a to option_d, and the right one's letter."""
    names = [f"option_{letter.lower()}" for letter in LETTERS]

    def letter(row: dict[str, Any]) -> str:
        return str(row["correct_answer"]).strip().upper()

    return rows.filter(lambda row: letter(row) in LETTERS and letter(row) != "").map(
        lambda row: {"choices": [row[name] for name in names], "answer": LETTERS.index(letter(row))}
    )


def with_all_endings(rows: Any) -> Any:
    """HellaSwag in Hindi: without the rows in which an ending was lost in translation."""
    return rows.filter(lambda row: all(ending.strip() for ending in row["endings"])).map(
        lambda row: {
            "query": f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}".strip(),
            "choices": [ending.strip() for ending in row["endings"]],
            "answer": int(row["label"]),
        }
    )


def answerable(rows: Any) -> Any:
    """IndicQA: the questions that have an answer in their passage."""
    return rows.filter(lambda row: any(text.strip() for text in row["answers"]["text"]))


def first_answer(row: dict[str, Any]) -> str:
    """What a solved example shows."""
    return next(text.strip() for text in row["answers"]["text"] if text.strip())


def span_scores(row: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Exact match and F1 of words, of the answer that fits best.

    Punctuation does not count, the danda included; Hindi has no articles to leave out.
    """
    wanted = [words(text) for text in row["answers"]["text"] if text.strip()]
    found = words(results[0])
    return {
        "exact_match": float(any(found == each for each in wanted)),
        "f1": max(_f1(found, each) for each in wanted),
    }


def words(text: str) -> list[str]:
    """Words without punctuation. Vowel signs are no letters to `\\w`, but belong to their words."""
    return re.sub(r"[!-/:-@\[-`{-~।॥‘’“”–—…]", " ", text.lower()).split()


def _f1(found: list[str], wanted: list[str]) -> float:
    common = sum((Counter(found) & Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted)) if common else 0.0
