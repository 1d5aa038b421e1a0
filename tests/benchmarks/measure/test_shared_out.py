"""What is not assigned exactly once is found."""

from __future__ import annotations

import pytest

from benchmarks.measure.shared_out import Box, NotOnce, check_written_once

WHOLE: Box = ((0, 0), (4, 2))
UPPER: Box = ((0, 0), (2, 2))
MIDDLE: Box = ((1, 0), (2, 2))
LOWER: Box = ((2, 0), (2, 2))


def test_parts_that_make_up_the_whole() -> None:
    assert check_written_once([("w", (4, 2), UPPER), ("w", (4, 2), LOWER), ("v", (4, 2), WHOLE)]) == 16


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (None, "w: 1 parts do not make up the whole"),
        (((4, 2), MIDDLE), "w: two ranks write the same part"),
        (((6, 2), LOWER), "w: ranks disagree about its shape"),
        (((4, 2), WHOLE), "w: 2 parts do not make up the whole"),
    ],
    ids=["none", "overlap", "shape", "too much"],
)
def test_what_is_not_shared_out_once(other: tuple[tuple[int, ...], Box] | None, message: str) -> None:
    parts = [("w", (4, 2), UPPER)] + ([] if other is None else [("w", *other)])
    with pytest.raises(NotOnce, match=f"^{message}$"):
        check_written_once(parts)
