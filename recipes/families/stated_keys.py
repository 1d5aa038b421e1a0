"""Keys of a configuration that no reader has used, so that no option is ignored silently.

A reader looks its keys up in :class:`StatedKeys`. Keys left over are refused unless known to change nothing,
so that a reader cannot miss a key that changes what the model computes. No torch here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from recipes.console import printable, shown
from recipes.errors import UserError


def key_names(text: str) -> frozenset[str]:
    """The names in a text, separated by white space."""
    return frozenset(text.split())


class StatedKeys(Mapping[str, Any]):
    """A configuration that records which of its keys were looked up. ``in`` does not count as a lookup."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content
        self._looked_up: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self._looked_up.add(key)
        return self._content[key]

    def __contains__(self, key: object) -> bool:
        return key in self._content

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def states(self, key: str) -> bool:
        """Whether the key has a value other than null. Does not count as a lookup."""
        return self._content.get(key) is not None

    def refuse_unread(self, label: str, harmless: Collection[str]) -> None:
        """Every key with a value must have been looked up or be harmless.

        Args:
            label: what messages call the file or the part of it.
            harmless: keys that never change what the model computes, whatever their value.

        Raises:
            UserError: with the key, its value and what to do.
        """
        for key, value in self._content.items():
            if key not in self._looked_up and key not in harmless and not _says_nothing(value):
                raise UserError(
                    f"{label}: {printable(str(key))}={shown(value)} is not known here and may change what "
                    "the model computes; if it does not, remove it from the file"
                )


def _says_nothing(value: Any) -> bool:
    """Null, false or empty: such a value turns no option on."""
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)
