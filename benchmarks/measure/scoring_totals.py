"""What several measurements come to, and how far answers are apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.measure.scoring_documents import Document
from benchmarks.measure.scoring_orders import Answers, Measured


def seconds(measured: Measured) -> float:
    """Those that count: the processor's, which other programs hardly change; on a GPU the clock's."""
    return measured.clock_s if torch.cuda.is_available() else measured.cpu_s


def together(parts: Sequence[Measured]) -> Measured:
    """Of all slices."""
    answers: Answers = [answer for part in parts for answer in part.answers]  # type: ignore[assignment]
    return Measured(
        sum(part.cpu_s for part in parts),
        sum(part.clock_s for part in parts),
        sum(part.search_cpu_s for part in parts),
        parts[0].batch,
        max(part.memory for part in parts),
        answers,
    )


def differences(ours: Answers, theirs: Answers, asked: Sequence[Document]) -> str:
    """Of log-probabilities and choices, or of texts."""
    if not asked[0].choices:
        other = sum(a != b for a, b in zip(ours, theirs, strict=True))
        words = [len(str(text).split()) for text in ours]
        mean = sum(words) / len(words)
        return f"{other:,} of {len(ours):,} texts differ; {mean:.1f} words on the average"
    largest = max(abs(float(a[0]) - float(b[0])) for a, b in zip(ours, theirs, strict=True))
    other, place = 0, 0
    for document in asked:
        some = slice(place, place + len(document.choices))
        best = [max(range(len(side[some])), key=lambda i: side[some][i][0]) for side in (ours, theirs)]
        other += best[0] != best[1]
        place += len(document.choices)
    return f"{other:,} of {len(asked):,} choices differ; log-probabilities by {largest:.1e} at most"
