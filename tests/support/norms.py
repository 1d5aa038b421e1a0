"""Norms by group of parameters in two runs' metrics."""

from __future__ import annotations

from typing import Any

import pytest


def assert_same_norms(metrics: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """At every step that `expected` has them for, which must be some."""
    again = {record["step"]: record for record in metrics if "loss" in record}
    detailed = [record for record in expected if "weight_norm" in record]
    assert detailed
    for record in detailed:
        norms = {
            key: value
            for key, value in record.items()
            if key.startswith(("grad_norm", "weight_norm", "update_ratio"))
        }
        assert len(norms) > 10
        found = {key: again[record["step"]].get(key) for key in norms}
        assert found == pytest.approx(norms, rel=5e-3, abs=1e-7), record["step"]
