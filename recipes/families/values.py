"""Typed access to an untrusted JSON object."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from recipes.console import shown
from recipes.errors import UserError
from recipes.families.stated_keys import StatedKeys

# No model has more of anything: larger numbers would only cost memory until the weights contradict them.
LARGEST = 2**31


class Values:
    """Keys of ``content`` by type; ``null`` counts as absent. Messages call the file ``name``.

    Every method raises UserError if a value is missing, of the wrong type or out of bounds.
    ``content`` records what is looked up: a key that no reader uses is refused at the end.
    """

    def __init__(self, content: Mapping[str, Any], name: str) -> None:
        self.content, self.name = StatedKeys(content), name
        self._nested: dict[str, Values] = {}

    def refuse_unread(self, harmless: Collection[str]) -> None:
        """Every key with a value must have been read or be harmless, in nested objects too.

        Raises:
            UserError: with the key, its value and what to do.
        """
        self.content.refuse_unread(self.name, harmless)
        for nested in self._nested.values():
            nested.refuse_unread(())

    def refuse(self, key: str, why: str) -> NoReturn:
        raise UserError(f"{self.name}: {key}={shown(self.content.get(key))}: {why}")

    def has(self, key: str) -> bool:
        return self.content.states(key)

    def _get(self, key: str, default: Any) -> Any:
        value = self.content.get(key)
        if value is None and default is None:
            raise UserError(f"{self.name}: {key} is missing")
        return default if value is None else value

    def count(self, key: str, default: int | None = None, least: int = 1, most: int = LARGEST) -> int:
        value = self._get(key, default)
        if type(value) is not int or not least <= value <= most:
            self.refuse(key, f"must be a whole number from {least} to {most}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > 1e15:
            self.refuse(key, "must be a number")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._get(key, default)
        if type(value) is not bool:
            self.refuse(key, "must be true or false")
        return value

    def choice(self, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str) or value not in allowed:
            self.refuse(key, f"is not supported (supported: {', '.join(allowed)})")
        return value

    def mapping(self, key: str) -> Values:
        """A nested object, empty if absent."""
        if key not in self._nested:
            value = self.content.get(key)
            if value is None:
                value = {}
            if not isinstance(value, dict):
                self.refuse(key, "must be an object")
            self._nested[key] = Values(value, f"{self.name}: {key}")
        return self._nested[key]

    def numbers_of_layers(self, key: str, layers: int) -> list[int]:
        """A list of layers, counted from 0, each once and sorted; empty if absent."""
        value = self.content.get(key)
        if value is None:
            value = []
        if (
            not isinstance(value, list)
            or len(value) > layers
            or not all(type(layer) is int and 0 <= layer < layers for layer in value)
            or len(set(value)) != len(value)
        ):
            self.refuse(key, f"must list some of the layers 0 to {layers - 1}")
        return sorted(value)
