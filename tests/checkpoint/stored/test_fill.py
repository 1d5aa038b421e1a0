"""Memory while a model is filled."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.loading_cases import peak_case
from tests.support.pool import GlooPool


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak that Linux counts")
@pytest.mark.parametrize("stored", ["bfloat16", "float32"])
def test_loading_needs_no_second_copy_of_a_tensor(stored: str, tmp_path: Path) -> None:
    """Two tables are nearly all of the model: room for a copy of one, even in bf16, would be 0.25 of it."""
    (grown,) = GlooPool().run(1, peak_case, stored, str(tmp_path / "numbers"))
    assert 0.9 < grown < 1.12
