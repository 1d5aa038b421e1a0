"""Shared by all tests: a small generated corpus, tokenized, and a pool of gloo workers."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Workers and subprocesses of tests share two cores: one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests mean megatron-core over gloo on the CPU, on every machine: some start several ranks, and NCCL
# refuses two on one card. So GPUs are hidden before torch looks for any, from subprocesses too.
# `make test-cuda` shows them to tests/cuda, whose cases have one rank.
if os.environ.get("PARAM_RECIPES_TEST_CUDA") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

from tests.support.corpus import TinyData, make_tiny_data
from tests.support.pool import GlooPool

TESTS = Path(__file__).resolve().parent

# Not on a GPU machine that has only what tests/cuda needs.
if importlib.util.find_spec("hypothesis") is not None:
    from hypothesis import settings

    # An example that is slow says nothing here: other test processes use the same cores.
    settings.register_profile("default", settings.get_profile("default"), deadline=None)
    settings.load_profile("default")

# A shell's background job ignores Ctrl-C, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Rooms whose tests import megatron-core in their own process. The others do without, and without its seconds.
ENGINE_ROOMS = (
    "checkpoint",
    "cuda",
    "data/samples",
    "families",
    "inference",
    "kernels",
    "model",
    "optim",
    "parallel",
    "plan",
)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Puts the stand-in for CUDA in place before a room's tests import megatron-core, which looks for it."""
    if isinstance(collector, pytest.Directory) and collector.path in [TESTS / room for room in ENGINE_ROOMS]:
        import torch

        from recipes.parallel import cpu_stand_in

        if not torch.cuda.is_available():
            cpu_stand_in.install()


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """English and Hindi .bin/.idx and their tokenizer."""
    return make_tiny_data(tmp_path_factory.mktemp("tiny_data"))


@pytest.fixture(scope="session")
def gloo_pool() -> GlooPool:
    """Processes under gloo that run parallel cases."""
    return GlooPool()


@pytest.fixture(scope="module")
def engine() -> Iterator[None]:
    """Process groups of one process, for the models that a module's tests build."""
    from tests.support.engine import process_groups

    with process_groups():
        yield
