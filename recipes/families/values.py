"""Typed access to a JSON object from a stranger."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from recipes.console import shown
from recipes.errors import UserError

# No model has more of anything; what is larger would only cost memory before the weights contradict it.
LARGEST = 2**31


class Values:
    """Keys of ``content`` by type; ``null`` counts as absent. ``name`` is how messages call the file.

    Every method raises UserError where a value is missing, of another type or out of bounds.
    """

    def __init__(self, content: dict[str, Any], name: str) -> None:
        self.content, self.name = content, name

    def refuse(self, key: str, why: str) -> NoReturn:
        raise UserError(f"{self.name}: {key}={shown(self.content.get(key))}: {why}")

    def has(self, key: str) -> bool:
        return self.content.get(key) is not None

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
        """An object inside, empty where it is absent."""
        value = self.content.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            self.refuse(key, "must be an object")
        return Values(value, f"{self.name}: {key}")

    def numbers_of_layers(self, key: str, layers: int) -> list[int]:
        """Some of the layers, counted from 0, each once and sorted; none where it is absent."""
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
