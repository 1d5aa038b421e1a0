"""Shared by all tests: a small generated corpus, tokenized, and a pool of gloo workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Workers and subprocesses of tests share two cores: one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.support.corpus import TinyData, make_tiny_data
from tests.support.pool import GlooPool

# An example that is slow says nothing here: other test processes use the same cores.
settings.register_profile("default", settings.get_profile("default"), deadline=None)
settings.load_profile("default")

# A shell's background job ignores Ctrl-C, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """English and Hindi .bin/.idx and their tokenizer."""
    return make_tiny_data(tmp_path_factory.mktemp("tiny_data"))


@pytest.fixture(scope="session")
def gloo_pool() -> Iterator[GlooPool]:
    """Processes that import once and run many parallel cases."""
    pool = GlooPool()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[1]
