"""``context/io.json`` of a NeMo 2 directory: the configuration as the fiddle library stores it.

NeMo 2's own loader (``nemo.lightning.io.load_context``) reads this file, not model.yaml. It is written from
model.yaml's own content: mappings with ``_target_`` become fiddle Configs, those with ``_call_: false``
references to a function. The file is only written, never read back.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

FILE = "io.json"
_VERSION = "0.0.1"  # Of fiddle's format, serialization.py of fiddle 0.3.
_STRATEGY = {"_target_": "nemo.lightning.pytorch.strategies.megatron_strategy.MegatronStrategy"}
_TRAINER = {"_target_": "nemo.lightning.pytorch.trainer.Trainer", "accelerator": "gpu", "devices": 1}


def io_json(model: Mapping[str, Any]) -> str:
    """The file's content for ``model``, which is model.yaml as plain data."""
    context = {
        "_target_": "nemo.lightning.io.pl.TrainerContext",
        "model": model,
        "trainer": {**_TRAINER, "strategy": {**_STRATEGY, "ckpt_save_optimizer": False}},
        "extra": {},
    }
    objects = _Objects()
    root = objects.add(context, "<root>")
    document = {
        "root": root,
        "objects": objects.stored,
        "refcounts": dict.fromkeys(objects.stored, 1),
        "version": _VERSION,
    }
    return json.dumps(document)


class _Objects:
    """The table of objects, each under a name of its own, in the order in which they are completed."""

    def __init__(self) -> None:
        self.stored: dict[str, Any] = {}
        self._counts: Counter[str] = Counter()

    def add(self, value: Any, path: str) -> dict[str, Any]:
        """Stores ``value`` if it needs an entry of its own; returns what refers to it."""
        if not isinstance(value, Mapping):
            return {"type": "leaf", "value": value, "paths": [path]}
        if value.get("_call_") is False:
            return {**_python(value["_target_"]), "paths": [path]}
        if "_target_" not in value:
            items = [[f"Key(key={key!r})", self.add(item, f"{path}[{key!r}]")] for key, item in value.items()]
            entry = {"type": _python("builtins.dict"), "items": items, "metadata": _tuple(value)}
            return self._store("dict", entry)
        arguments = {key: item for key, item in value.items() if key != "_target_"}
        attributes = [
            [f"Attr(name={key!r})", self.add(item, f"{path}.{key}")] for key, item in arguments.items()
        ]
        config = {
            "type": _python("fiddle._src.config.Config"),
            "items": attributes,
            "metadata": self._metadata(value["_target_"], list(arguments)),
            "paths": [path],
        }
        return self._store(value["_target_"].rsplit(".", 1)[-1].lower(), config)

    def _metadata(self, target: str, arguments: list[str]) -> dict[str, Any]:
        """What fiddle stores besides arguments: the class, their names, empty tags and an empty history."""
        kind = _python("fiddle._src.config.BuildableTraverserMetadata")
        fields = {
            "fn_or_cls": _python(target),
            "argument_names": self._store("tuple", _tuple(arguments)),
            "argument_tags": self.add({}, ""),
            "argument_history": self.add({}, ""),
        }
        items = [[f"Attr(name={name!r})", field] for name, field in fields.items()]
        return self._store("buildable_traverser_metadata", {"type": kind, "items": items, "metadata": kind})

    def _store(self, kind: str, entry: dict[str, Any]) -> dict[str, Any]:
        self._counts[kind] += 1
        key = f"{kind}_{self._counts[kind]}"
        self.stored[key] = entry
        return {"type": "ref", "key": key}


def _tuple(names: Iterable[str]) -> dict[str, Any]:
    items = [[f"Index(index={index})", name] for index, name in enumerate(names)]
    return {"type": _python("builtins.tuple"), "items": items, "metadata": None}


def _python(name: str) -> dict[str, Any]:
    module, _, attribute = name.rpartition(".")
    return {"type": "pyref", "module": module, "name": attribute}
