"""Two models on the same documents: the mean difference, its standard error, and what could have been seen.

Their scores vary together, for hard questions are hard for both: the differences of single documents spread
less than the two models' scores would if they were independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from recipes.report.document_scores import DocumentScores

TWO_SIDED_5_PERCENT, POWER_80_PERCENT = 1.959964, 0.841621
"""Quantiles of the normal distribution."""


@dataclass(frozen=True)
class PairedDifference:
    """The second model less the first, in the metric's own unit."""

    task: str
    metric: str
    n: int
    """Documents that both have scored."""
    first: float
    second: float
    difference: float
    stderr: float | None
    """Of the difference; None: of a single document there is none."""
    better: int
    """Documents on which the second model scores higher."""
    worse: int
    unmatched: int
    """Documents that only one of the two has."""

    @property
    def significant(self) -> bool:
        """Whether chance alone gives such a difference in less than 5 of 100 cases."""
        return self.stderr is not None and abs(self.difference) > TWO_SIDED_5_PERCENT * self.stderr

    @property
    def detectable(self) -> float | None:
        """The true difference that documents like these show as significant in 80 of 100 cases."""
        return None if self.stderr is None else (TWO_SIDED_5_PERCENT + POWER_80_PERCENT) * self.stderr


def compare(
    first: DocumentScores, second: DocumentScores
) -> tuple[list[PairedDifference], list[tuple[str, str]]]:
    """The differences of all tasks and groups that both have.

    Returns:
        The differences, groups before tasks; and what cannot be compared, with the reason.
    """
    differences, left_out = [], []
    groups = {name: members for name, members in first.groups.items() if second.groups.get(name) == members}
    for name, members in {**groups, **{task: [task] for task in first.tasks}}.items():
        if any(member not in second.tasks or member not in first.tasks for member in members):
            left_out.append((name, f"{second.model} has no scores of it"))
            continue
        metrics = _common_metrics([first, second], members)
        if not metrics:
            left_out.append((name, "no metric in common is a number for each document"))
        for metric in metrics:
            pairs, unmatched = [], 0
            for member in members:
                ours, theirs = first.tasks[member][metric], second.tasks[member][metric]
                same = [document for document in ours if document in theirs]
                pairs += [(ours[document], theirs[document]) for document in same]
                unmatched += len(ours.keys() ^ theirs.keys())
            if pairs:
                differences.append(_difference(name, metric, pairs, unmatched))
            else:
                left_out.append((name, f"{metric}: the documents are not the same"))
    left_out += [
        (task, f"{first.model} has no scores of it") for task in second.tasks.keys() - first.tasks.keys()
    ]
    return differences, left_out


def _common_metrics(models: Sequence[DocumentScores], tasks: Sequence[str]) -> list[str]:
    held: list[Mapping[str, object]] = [model.tasks[task] for model in models for task in tasks]
    return [metric for metric in held[0] if all(metric in metrics for metrics in held)]


def _difference(
    task: str, metric: str, pairs: Sequence[tuple[float, float]], unmatched: int
) -> PairedDifference:
    differences = [second - first for first, second in pairs]
    return PairedDifference(
        task,
        metric,
        len(pairs),
        fmean(first for first, _ in pairs),
        fmean(second for _, second in pairs),
        fmean(differences),
        stdev(differences) / math.sqrt(len(pairs)) if len(pairs) > 1 else None,
        sum(difference > 0 for difference in differences),
        sum(difference < 0 for difference in differences),
        unmatched,
    )
