"""YAML from a checkpoint: plain data of bounded size."""

from __future__ import annotations

from typing import Any

import yaml

from recipes.checkpoint.formats.blob import Blob
from recipes.checkpoint.formats.safety import reason
from recipes.errors import UserError

# NeMo's own have less than 20 kB; PyYAML needs a second for 200 kB.
LARGEST_CONFIG = 1_000_000
# Aliases count as often as they are used. NeMo's own have less than 2,000, eight levels deep.
MOST_NODES = 100_000
DEEPEST = 100
LONGEST_NUMBER = 100
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Loader(yaml.SafeLoader):
    """Loads plain data that is not much larger than its text, however often aliases repeat a part."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """A merge key copies what it names: twelve lines can ask for more entries than fit into memory."""
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise ValueError("it has a merge key (<<), which NeMo never writes")

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _expanded(node, {})
        return node


def _expanded(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Number of nodes and levels from ``node`` down; aliases count as often as they are used."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST_NODES + 1, 0  # In case an alias inside it names it.
    if isinstance(node, yaml.ScalarNode):
        if node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:
            raise ValueError(f"it has a number of {len(node.value):,} digits")
        below = []
    elif isinstance(node, yaml.MappingNode):
        below = [_expanded(child, known) for pair in node.value for child in pair]
    else:
        below = [_expanded(child, known) for child in node.value]
    nodes, depth = 1 + sum(size for size, _ in below), 1 + max((levels for _, levels in below), default=0)
    if nodes > MOST_NODES or depth > DEEPEST:
        raise ValueError(f"with its aliases (*) it has more than {MOST_NODES:,} values or {DEEPEST} levels")
    known[id(node)] = nodes, depth
    return nodes, depth


def read_yaml(blob: Blob) -> dict[str, Any]:
    """A mapping of plain data; nothing in it is instantiated.

    Raises:
        UserError: it is something else, or too large to be a configuration.
    """
    content = blob.read(LARGEST_CONFIG)
    try:
        config = yaml.load(content.decode("utf-8"), Loader=_Loader)
    except Exception as error:  # PyYAML passes on what its constructors raise: ValueError, KeyError ...
        raise UserError(f"{blob.name} is not plain YAML: {reason(error)}") from None
    if not isinstance(config, dict):
        raise UserError(f"{blob.name} is not a mapping")
    return config
