"""Where a task's documents come from."""

from __future__ import annotations

from types import SimpleNamespace

from datasets import Dataset, DatasetDict, DatasetInfo

from recipes.evaluation.task_data import data_of, hub_revision

REVISION = "210d026faf9955653af8916fad021475a3f00453"


def task(url: str) -> SimpleNamespace:
    """With a data set as `datasets` makes it of files that it has downloaded."""
    info = DatasetInfo(download_checksums={url: {"num_bytes": 5, "checksum": None}})
    data = DatasetDict({"test": Dataset.from_list([{"a": 1}], info=info)})
    config = SimpleNamespace(dataset_path="allenai/ai2_arc", dataset_name="ARC-Easy")
    return SimpleNamespace(config=config, dataset=data)


def test_the_hubs_revision_is_that_of_the_files() -> None:
    hub = task(f"hf://datasets/allenai/ai2_arc@{REVISION}/ARC-Easy/test-00000-of-00001.parquet")
    assert hub_revision(hub) == REVISION
    assert hub_revision(task("ARC-Easy/test-00000-of-00001.parquet")) is None
    named = {"data_set": "allenai/ai2_arc", "configuration": "ARC-Easy", "revision": REVISION}
    assert data_of(hub, {}) == {**named, "sha256": {}}
    manifest = {
        "allenai/ai2_arc/ARC-Easy/test": {"sha256": "beef", "revision": REVISION},
        "allenai/ai2_arc/ARC-Challenge/test": {"sha256": "dead", "revision": "0" * 40},
    }
    assert data_of(task("local.parquet"), manifest) == {**named, "sha256": {"test": "beef"}}
    own = SimpleNamespace(config=SimpleNamespace(dataset_path=None))
    assert data_of(own, {}) == {}
