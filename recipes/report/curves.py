"""Making long curves drawable: smoothing and downsampling."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

Point = tuple[float, float]

#: No curve of the page has more points than this.
MAX_POINTS = 1_000


def smooth(points: Sequence[Point], share: float = 0.02) -> list[Point]:
    """Centred moving average over about `share` of the curve.

    The window is short at the start, where a loss falls steeply, so that the average does not lag behind it.
    """
    sums = [0.0, *accumulate(y for _, y in points)]
    widest = max(2, round(share * len(points) / 2))
    result = []
    for i, (x, _) in enumerate(points):
        half = min(widest, i // 8)
        first, end = i - half, min(len(points), i + half + 1)
        result.append((x, (sums[end] - sums[first]) / (end - first)))
    return result


def downsample(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most `limit` of the points: the first, the last, and the least and greatest of each stretch between.

    Spikes are what a reader looks for, so unlike averages or every n-th point this never hides one.
    """
    if len(points) <= limit:
        return list(points)
    if limit < 4:
        raise ValueError(f"limit={limit}: needs room for the first, the last, a least and a greatest point")
    inner = points[1:-1]
    buckets = (limit - 2) // 2
    kept = [points[0]]
    for i in range(buckets):
        bucket = range(i * len(inner) // buckets, (i + 1) * len(inner) // buckets)
        low = min(bucket, key=lambda j: inner[j][1])
        high = max(bucket, key=lambda j: inner[j][1])
        kept += [inner[j] for j in sorted({low, high})]
    return [*kept, points[-1]]
