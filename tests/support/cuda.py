"""The mark of tests that only a GPU can run."""

from __future__ import annotations

import os

import pytest
import torch

VARIABLE = "PARAM_RECIPES_TEST_CUDA"

if os.environ.get(VARIABLE) != "1":
    _reason = f"GPUs are hidden from the tests: `make test-cuda`, which sets {VARIABLE}=1"
else:
    _reason = f"torch {torch.__version__} sees no GPU"

NEEDS_CUDA = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason=_reason)]
