"""The marks of tests that need Triton, which a machine without a GPU gets from `make test-kernels` alone."""

from __future__ import annotations

import importlib.util
import os

import pytest

_missing = importlib.util.find_spec("triton") is None
_interprets = os.environ.get("TRITON_INTERPRET") == "1"

NEEDS_INTERPRETER = pytest.mark.skipif(
    _missing or not _interprets, reason="needs Triton's interpreter: make test-kernels"
)
NEEDS_COMPILER = pytest.mark.skipif(
    _missing or _interprets, reason="needs Triton's compiler: make test-kernels"
)
