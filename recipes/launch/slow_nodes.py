"""Which nodes are slow, from how fast groups of nodes are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Group = tuple[int, ...]
"""The numbers of nodes that are measured together."""
Measured = Mapping[Group, float | None]
"""GB/s of each group; None: it came to no end."""
TURNS = 3
"""After so many without a fast pair none is looked for: of three nodes, every pair has been measured."""


class SlowNodes:
    """Finds the slow ones among ``nodes`` by measuring pairs.

    A slow pair does not tell which of its nodes is at fault, so its nodes are measured again, each with one
    that is known to be fast. As long as none is known, the nodes meet in other pairs.

    Attributes:
        fast: nodes of pairs that reached the floor.
        slow: node -> the fast node that it was slow with, and how fast, in GB/s.
        pairs: all that was measured.
    """

    def __init__(self, nodes: Sequence[int], floor: float) -> None:
        self.floor = floor
        self.fast: list[int] = []
        self.slow: dict[int, tuple[int, float | None]] = {}
        self.pairs: dict[Group, float | None] = {}
        self._unknown = list(nodes)
        self._turns = 0

    def next_pairs(self) -> list[Group]:
        """Pairs that share no node, to be measured at the same time; none if nothing is left to find out."""
        if self.fast:
            return list(zip(self._unknown, self.fast, strict=False))
        if self._turns == TURNS:
            return []
        pairs: list[Group] = []
        waiting = list(self._unknown)
        while waiting:
            node = waiting.pop(0)
            partner = next((other for other in waiting if (node, other) not in self.pairs), None)
            if partner is not None:
                waiting.remove(partner)
                pairs.append((node, partner))
        return pairs

    def learn(self, measured: Measured) -> None:
        """Takes what the last pairs have reached."""
        self.pairs |= measured
        self._turns += 1
        fast = [pair for pair, speed in self.pairs.items() if speed is not None and speed >= self.floor]
        self.fast = sorted({node for pair in fast for node in pair})
        for pair, speed in self.pairs.items():
            for node, partner in (pair, pair[::-1]):
                if partner in self.fast and node not in self.fast:
                    self.slow.setdefault(node, (partner, speed))
        self._unknown = [node for node in self._unknown if node not in self.fast and node not in self.slow]
