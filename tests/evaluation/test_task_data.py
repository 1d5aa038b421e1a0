"""Where a task's documents come from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from datasets import Dataset, DatasetDict

from recipes.evaluation.task_data import data_of, hub_revision

REVISION = "210d026faf9955653af8916fad021475a3f00453"


def task(directory: Path) -> SimpleNamespace:
    """With a data set from `datasets`' cache; the hub's own is in tests/tools/test_prefetch_benchmarks.py."""
    Dataset.from_list([{"a": 1}]).save_to_disk(directory)
    data = DatasetDict({"test": Dataset.load_from_disk(directory)})
    config = SimpleNamespace(dataset_path="allenai/ai2_arc", dataset_name="ARC-Easy")
    return SimpleNamespace(config=config, dataset=data)


def test_the_hubs_revision_is_that_of_the_files(tmp_path: Path) -> None:
    hub, local = task(tmp_path / "0.0.0" / REVISION), task(tmp_path / "0.0.0" / "d8d0f2ad7ec5a2fd")
    assert hub_revision(hub) == REVISION and hub_revision(local) is None
    named = {"data_set": "allenai/ai2_arc", "configuration": "ARC-Easy", "revision": REVISION}
    assert data_of(hub, {}) == {**named, "sha256": {}}
    manifest = {
        "allenai/ai2_arc/ARC-Easy/test": {"sha256": "beef", "revision": REVISION},
        "allenai/ai2_arc/ARC-Challenge/test": {"sha256": "dead", "revision": "0" * 40},
    }
    assert data_of(local, manifest) == {**named, "sha256": {"test": "beef"}}
    own = SimpleNamespace(config=SimpleNamespace(dataset_path=None))
    assert data_of(own, {}) == {}
