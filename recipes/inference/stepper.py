"""One step of the engine: a token for every row."""

from __future__ import annotations

from recipes.inference.decode.decoder import Decoder
from recipes.inference.rows import Needs, Rows
from recipes.inference.sampling import Chosen, choose


class Stepper:
    """Makes steps for the first rows of a batch."""

    def __init__(self, decoder: Decoder, rows: Rows) -> None:
        self.decoder, self.rows = decoder, rows
        self.exact_shapes = True
        """Whether tensors' shapes may depend on numbers, see sampling.py."""

    def bucket(self, rows: int) -> int:
        """The size that a step for so many rows has."""
        return rows

    def step(self, count: int, longest: int, needs: Needs) -> Chosen:
        """The next token of the first ``count`` rows, of which none has more than ``longest`` tokens."""
        rows, first = self.rows, slice(0, count)
        logits = self.decoder.step(rows.last[first], rows.position[first], longest)
        chosen = choose(logits, rows, first, needs, exact_shapes=self.exact_shapes)
        rows.advance(first, chosen.ids, needs)
        return chosen
