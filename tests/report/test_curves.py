"""Making long curves drawable."""

import random

from recipes.report.curves import MAX_POINTS, downsample, smooth


def test_downsampling_keeps_the_extremes_and_the_ends() -> None:
    random.seed(0)
    points = [(float(x), random.gauss(0, 1)) for x in range(123_457)]
    points[60_000] = (60_000.0, 50.0)
    points[60_001] = (60_001.0, -50.0)
    kept = downsample(points)
    assert len(kept) <= MAX_POINTS
    assert kept == sorted(set(kept)) and set(kept) <= set(points)
    assert {points[0], points[-1], points[60_000], points[60_001]} <= set(kept)
    assert downsample(points[:MAX_POINTS]) == points[:MAX_POINTS]
    for n in range(5, 40):
        assert len(downsample(points[:n], 6)) <= 6


def test_smooth_keeps_constants_and_does_not_lag_at_the_start() -> None:
    assert smooth([(float(x), 3.0) for x in range(500)]) == [(float(x), 3.0) for x in range(500)]
    steep = [(float(x), 10.0 - x if x < 8 else 2.0) for x in range(1000)]
    assert smooth(steep)[5][1] == 5.0
