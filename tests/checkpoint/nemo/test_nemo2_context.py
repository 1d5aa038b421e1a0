"""context/io.json as NVIDIA's own NeMo 2 wrote it, and ours, read by the same small decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.checkpoint.convert import convert
from recipes.checkpoint.nemo.nemo2_context import io_json
from tests.support.nemo_files import FIXTURES

WRITTEN_BY_NEMO = [
    FIXTURES / name / "ckpt" / "context" / "io.json" for name in ("nemo2_local", "nemo2_v200_te")
]


def decoded(document: dict[str, Any]) -> Any:
    """The tree of Configs as model.yaml spells it; every stored object must be used."""
    used = set()

    def name(reference: dict[str, Any]) -> str:
        assert reference["type"] == "pyref"
        return f"{reference['module']}.{reference['name']}"

    def value(node: Any) -> Any:
        if node["type"] == "leaf":
            return node["value"]
        if node["type"] == "pyref":
            return {"_call_": False, "_target_": name(node)}
        assert node["type"] == "ref"
        used.add(node["key"])
        entry = document["objects"][node["key"]]
        kind = name(entry["type"])
        if kind == "builtins.dict":
            keys = metadata(entry["metadata"])
            assert [label for label, _ in entry["items"]] == [f"Key(key={key!r})" for key in keys]
            return dict(zip(keys, (value(item) for _, item in entry["items"]), strict=True))
        assert kind == "fiddle._src.config.Config"
        about = metadata(entry["metadata"])
        arguments = {label[len("Attr(name='") : -len("')")]: value(item) for label, item in entry["items"]}
        assert list(arguments) == about["argument_names"]
        assert about["argument_tags"] == about["argument_history"] == {}
        return {"_target_": name(about["fn_or_cls"]), **arguments}

    def metadata(node: Any) -> Any:
        if node["type"] == "ref":
            used.add(node["key"])
            node = document["objects"][node["key"]]
        kind = name(node["type"])
        if kind == "builtins.tuple":
            assert [label for label, _ in node["items"]] == [
                f"Index(index={i})" for i in range(len(node["items"]))
            ]
            return [item for _, item in node["items"]]
        if kind == "builtins.dict":
            assert node["items"] == []
            return {}
        assert kind == "fiddle._src.config.BuildableTraverserMetadata" == name(node["metadata"])
        fields = {label[len("Attr(name='") : -len("')")]: item for label, item in node["items"]}
        return {"fn_or_cls": fields.pop("fn_or_cls")} | {key: metadata(item) for key, item in fields.items()}

    tree = value(document["root"])
    assert used == set(document["objects"]) == set(document["refcounts"])
    return tree


@pytest.mark.parametrize("path", WRITTEN_BY_NEMO, ids=lambda path: path.parents[2].name)
def test_what_nemo_wrote_survives(path: Path) -> None:
    theirs = json.loads(path.read_text())
    tree = decoded(theirs)
    assert tree["_target_"] == "nemo.lightning.io.pl.TrainerContext"
    ours = json.loads(io_json(tree["model"]))
    assert ours["version"] == theirs["version"]
    again = decoded(ours)
    assert again["model"] == tree["model"]
    assert {key: again[key]["_target_"] for key in ("model", "trainer")} == {
        key: tree[key]["_target_"] for key in ("model", "trainer")
    }
    assert again["trainer"]["strategy"]["_target_"] == tree["trainer"]["strategy"]["_target_"]
    # Where an object is found, by which NeMo's loader chooses the part that it builds.
    paths = {tuple(entry["paths"]) for entry in ours["objects"].values() if "paths" in entry}
    assert {("<root>",), ("<root>.model",), ("<root>.model.config",), ("<root>.model.tokenizer",)} <= paths


def test_converted_directories_hold_it(tmp_path: Path) -> None:
    import yaml

    target = tmp_path / "nemo2"
    convert(FIXTURES / "classic_te_torch_dist" / "model.nemo", target, to="nemo2")
    written = decoded(json.loads((target / "context" / "io.json").read_text()))
    assert written["model"] == yaml.safe_load((target / "context" / "model.yaml").read_text())
