"""Steps as CUDA graphs: a step is hundreds of kernels, each of which is shorter than its launch."""

from __future__ import annotations

import time
from typing import Any

import torch

from recipes.console import warn
from recipes.inference.decode.decoder import Decoder
from recipes.inference.rows import Needs, Rows
from recipes.inference.sampling import Chosen
from recipes.inference.stepper import Stepper

SHORTEST_SPAN = 256
"""Attention over fewer tokens is not worth a graph of its own."""
WARM_UPS = 2

Key = tuple[int, int, Needs]
"""(rows, span, needs): what a graph is captured for."""


class GraphStepper(Stepper):
    """Captures each kind of step the first time it is made, and replays it from then on.

    A kind is a number of rows (a power of two, or all), a span of cached tokens that attention reads at most,
    and what the requests need. If a capture fails, one warning says why, and steps are launched one kernel at
    a time from then on.
    """

    def __init__(self, decoder: Decoder, rows: Rows) -> None:
        super().__init__(decoder, rows)
        self.exact_shapes = False
        self.capture_seconds = 0.0
        self._graphs: dict[Key, tuple[torch.cuda.CUDAGraph, Chosen]] = {}
        self._pool: Any = None
        self.fails = False
        """Whether a capture has failed."""

    def bucket(self, rows: int) -> int:
        """The next power of two, at most all rows."""
        return min(1 << (rows - 1).bit_length(), self.rows.slots)

    def step(self, count: int, longest: int, needs: Needs) -> Chosen:
        """See :class:`Stepper`. What it returns is overwritten by the next step."""
        span = max(SHORTEST_SPAN, 1 << (longest - 1).bit_length())
        key = self.bucket(count), span, needs
        if key not in self._graphs:
            if self.fails:
                return super().step(count, longest, needs)
            try:
                self._graphs[key] = self._captured(key)
            except RuntimeError as error:
                self.fails = True
                reason = str(error).splitlines()[0]
                warn(f"completion runs without CUDA graphs, several times slower: {reason}")
                return super().step(count, longest, needs)
        graph, chosen = self._graphs[key]
        graph.replay()
        return chosen

    def _captured(self, key: Key) -> tuple[torch.cuda.CUDAGraph, Chosen]:
        started = time.perf_counter()
        active = self.rows.active.clone()
        # Rows that are not active stay as they are, so the trial steps change nothing: keys and values are
        # written where the real step will write the same ones.
        self.rows.active.zero_()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                super().step(*key)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                chosen = super().step(*key)
        finally:
            self.rows.active.copy_(active)
        self._pool = graph.pool()
        self.capture_seconds += time.perf_counter() - started
        return graph, chosen
