"""Saving and resuming real runs: contents, damage, disks that refuse."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from recipes.checkpoint.save.manifest import MANIFEST, finished_checkpoints, verify
from recipes.checkpoint.save.retention import VALIDATED_LATER
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case, start


def overrides(data: TinyData, output_dir: Path, **changes: str) -> list[str]:
    settings = {"output_dir": str(output_dir), "save_nemo": "false", "trainer__max_steps": "12"} | changes
    return data.overrides(**settings)


def run(pool: GlooPool, data: TinyData, output_dir: Path, **changes: str) -> Outcome:
    (outcome,) = pool.run(1, run_case, overrides(data, output_dir, **changes))
    return outcome


@pytest.fixture(scope="module")
def finished(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path_factory: Any) -> tuple[Path, Outcome]:
    """A run of 12 steps that saved at 4, 8 and 12 and kept all."""
    output_dir = tmp_path_factory.mktemp("finished")
    outcome = run(
        gloo_pool,
        tiny_data,
        output_dir,
        trainer__checkpoint__every_n_steps="4",
        trainer__checkpoint__keep_last="3",
    )
    assert outcome.code == 0
    return output_dir, outcome


@pytest.fixture
def copied(finished: tuple[Path, Outcome], tmp_path: Path) -> Path:
    """The run directory without its last checkpoint, to be resumed."""
    shutil.copytree(finished[0], tmp_path / "outputs")
    shutil.rmtree(tmp_path / "outputs" / "tiny" / "checkpoints" / "step_00000012")
    return tmp_path / "outputs"


def checkpoint_names(output_dir: Path) -> list[str]:
    return sorted(path.name for path in (output_dir / "tiny" / "checkpoints").iterdir())


def test_what_a_checkpoint_holds(finished: tuple[Path, Outcome]) -> None:
    run_directory = finished[0] / "tiny"
    assert checkpoint_names(finished[0]) == ["step_00000004", "step_00000008", "step_00000012"]
    for path in finished_checkpoints(run_directory / "checkpoints"):
        manifest = verify(path)
        saved = [file for file in path.rglob("*") if file.is_file() and file.name != VALIDATED_LATER]
        on_disk = {str(file.relative_to(path)) for file in saved}
        assert on_disk == set(manifest["files"]) | {MANIFEST}
        for name, entry in manifest["files"].items():
            content = (path / name).read_bytes()
            assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        newest = max(file.stat().st_mtime_ns for file in saved if file.name != MANIFEST)
        assert (path / MANIFEST).stat().st_mtime_ns >= newest, "the manifest is written last"
        assert manifest["step"] == int(path.name.removeprefix("step_"))
        config = (run_directory / "config.yaml").read_bytes()
        assert manifest["config_sha256"] == hashlib.sha256(config).hexdigest()
        assert {".metadata", "common.pt", "metadata.json"} < on_disk


def test_keep_last(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    run(gloo_pool, tiny_data, tmp_path, trainer__checkpoint__every_n_steps="5")
    assert checkpoint_names(tmp_path) == ["step_00000010", "step_00000012"]


def test_resumed_run_repeats_the_uninterrupted_one(
    copied: Path, finished: tuple[Path, Outcome], gloo_pool: GlooPool, tiny_data: TinyData
) -> None:
    outcome = run(gloo_pool, tiny_data, copied)
    assert outcome.losses == finished[1].losses and len(outcome.losses) == 12
    assert {"event": "resumed", "step": 8, "checkpoint": "step_00000008"} in outcome.metrics
    original = [record for record in finished[1].metrics if "valid.en.loss" in record][-1]
    again = [record for record in outcome.metrics if "valid.en.loss" in record][-1]
    assert {k: v for k, v in again.items() if k != "elapsed_s"} == {
        k: v for k, v in original.items() if k != "elapsed_s"
    }


@pytest.mark.parametrize(
    "file", [".metadata", "common.pt", pytest.param("metadata.json", marks=pytest.mark.slow), "__0_0.distcp"]
)
def test_a_changed_byte_anywhere_means_the_checkpoint_before(
    file: str,
    copied: Path,
    finished: tuple[Path, Outcome],
    gloo_pool: GlooPool,
    tiny_data: TinyData,
) -> None:
    path = copied / "tiny" / "checkpoints" / "step_00000008" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    # keep_last=1: were the damaged one counted, the new one would be deleted.
    outcome = run(
        gloo_pool,
        tiny_data,
        copied,
        trainer__checkpoint__every_n_steps="2",
        trainer__checkpoint__keep_last="1",
    )
    assert {"event": "resumed", "step": 4, "checkpoint": "step_00000004"} in outcome.metrics
    assert outcome.losses == finished[1].losses
    assert "step_00000008 is passed over" in outcome.stderr
    assert checkpoint_names(copied) == ["damaged_step_00000008", "step_00000012"]
    verify(copied / "tiny" / "checkpoints" / "step_00000012")


def test_a_step_whose_checkpoint_was_damaged_is_saved_again(
    finished: tuple[Path, Outcome], tmp_path: Path, gloo_pool: GlooPool, tiny_data: TinyData
) -> None:
    shutil.copytree(finished[0], tmp_path / "outputs")
    last = tmp_path / "outputs" / "tiny" / "checkpoints" / "step_00000012"
    (last / "common.pt").write_bytes(b"")
    outcome = run(gloo_pool, tiny_data, tmp_path / "outputs")
    assert outcome.losses == finished[1].losses
    verify(last)


def test_all_damaged_is_an_error(copied: Path, gloo_pool: GlooPool, tiny_data: TinyData) -> None:
    before = (copied / "tiny" / "metrics.jsonl").read_bytes()
    for path in (copied / "tiny" / "checkpoints").iterdir():
        (path / "common.pt").unlink()
    outcome = run(gloo_pool, tiny_data, copied)
    assert outcome.code == 2 and "none of 2 checkpoints is whole" in outcome.message
    assert (copied / "tiny" / "metrics.jsonl").read_bytes() == before


def test_unfinished_saves_are_never_chosen_and_are_cleaned(
    copied: Path, finished: tuple[Path, Outcome], gloo_pool: GlooPool, tiny_data: TinyData
) -> None:
    checkpoints = copied / "tiny" / "checkpoints"
    (checkpoints / "step_00000008" / MANIFEST).unlink()
    shutil.copytree(
        finished[0] / "tiny" / "checkpoints" / "step_00000012", checkpoints / ".step_00000012.partial"
    )
    outcome = run(gloo_pool, tiny_data, copied, trainer__max_steps="5", optim__lr_decay_steps="20")
    assert {"event": "resumed", "step": 4, "checkpoint": "step_00000004"} in outcome.metrics
    assert checkpoint_names(copied) == ["step_00000004", "step_00000005"]


CHANGES = {
    "trainer__global_batch_size": ("4", "trainer.global_batch_size=4", "8"),
    "data__seq_length": ("16", "data.seq_length=16", "32"),
    "model__num_layers": ("2", "model.num_layers=2", "4"),
    "model__hidden_size": ("32", "model.hidden_size=32", "64"),
    "model__rotary_base": ("500000", "model.rotary_base=500000", "10000"),
    "model__share_embeddings_and_output_weights": (
        "false",
        "model.share_embeddings_and_output_weights=False",
        "True",
    ),
}


@pytest.mark.parametrize("key", CHANGES)
def test_another_model_or_batch_is_refused(
    key: str, copied: Path, gloo_pool: GlooPool, tiny_data: TinyData
) -> None:
    value, named, used = CHANGES[key]
    outcome = run(gloo_pool, tiny_data, copied, **{key: value})
    assert outcome.code == 2
    assert named in outcome.message and f"the run being resumed used {used}" in outcome.message
    assert checkpoint_names(copied) == ["step_00000004", "step_00000008"]


def test_what_may_change(copied: Path, gloo_pool: GlooPool, tiny_data: TinyData) -> None:
    outcome = run(
        gloo_pool,
        tiny_data,
        copied,
        optim__lr="1e-5",
        optim__min_lr="0",
        trainer__micro_batch_size="4",
        model__hidden_dropout="0.1",
    )
    assert outcome.code == 0 and outcome.metrics[-1]["step"] == 12
    # Linear to 1e-5 in 2 steps, then a cosine to 0 at step 20; the record of step n tells the rate it used.
    rates = {record["step"]: record["lr"] for record in outcome.metrics if "loss" in record}
    for step in range(9, 13):
        done = (step - 1 - 2) / (20 - 2)
        assert rates[step] == pytest.approx(1e-5 * 0.5 * (1 + math.cos(math.pi * done)))
    assert rates[8] > 1e-4


def test_resume_never(copied: Path, gloo_pool: GlooPool, tiny_data: TinyData) -> None:
    outcome = run(gloo_pool, tiny_data, copied, resume="never")
    assert outcome.code == 2 and "resume=never" in outcome.message and "step_00000008" in outcome.message


def test_a_weight_of_another_shape_is_one_line(
    copied: Path, gloo_pool: GlooPool, tiny_data: TinyData
) -> None:
    """A checkpoint from before the model was recorded in it: the tensors themselves decide."""
    import torch

    path = copied / "tiny" / "checkpoints" / "step_00000008"
    state = torch.load(path / "common.pt", weights_only=False)
    del state["recipes"]["model"]
    torch.save(state, path / "common.pt")
    manifest = json.loads((path / MANIFEST).read_text())
    content = (path / "common.pt").read_bytes()
    manifest["files"]["common.pt"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / MANIFEST).write_text(json.dumps(manifest))
    outcome = run(gloo_pool, tiny_data, copied, model__hidden_size="32")
    assert outcome.code == 2 and "does not fit the configured model" in outcome.message
    assert "\n" not in outcome.message


# Disks that refuse


def resumable(copied: Path, finished: tuple[Path, Outcome], pool: GlooPool, data: TinyData) -> None:
    """The two earlier checkpoints are whole and the run goes on from the newer."""
    assert [verify(path)["step"] for path in finished_checkpoints(copied / "tiny" / "checkpoints")] == [4, 8]
    assert checkpoint_names(copied) == ["step_00000004", "step_00000008"]
    outcome = run(pool, data, copied)
    assert outcome.code == 0 and outcome.losses == finished[1].losses


@pytest.mark.parametrize("limit", [200_000, 20_000])
def test_no_file_may_grow(
    limit: int, copied: Path, finished: tuple[Path, Outcome], gloo_pool: GlooPool, tiny_data: TinyData
) -> None:
    """RLIMIT_FSIZE (Python ignores SIGXFSZ): the weights' file does not fit."""
    (outcome,) = gloo_pool.run(1, run_case, overrides(tiny_data, copied), limit)
    assert outcome.code == 2 and "cannot be saved" in outcome.message and "\n" not in outcome.message
    assert "File too large" in outcome.message or "a write failed" in outcome.message
    resumable(copied, finished, gloo_pool, tiny_data)


def case_without_space(overrides: list[str], where: str) -> Outcome:
    """A run in which one kind of write finds no space left."""
    import errno

    import recipes.checkpoint.save.publish as publish
    from recipes.run_directory import RunDirectory

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patches: dict[str, tuple[Any, str]] = {
        "manifest": (publish, "write_manifest"),
        "rename": (publish, "put_in_place"),
        "metrics": (RunDirectory, "append_metrics"),
    }
    owner, name = patches[where]
    original = getattr(owner, name)
    if where == "metrics":
        import recipes.run_directory as rundir

        owner, name, original = rundir.os, "fsync", rundir.os.fsync
    setattr(owner, name, full)
    try:
        return run_case(overrides)
    finally:
        setattr(owner, name, original)


@pytest.mark.parametrize("where", ["manifest", pytest.param("rename", marks=pytest.mark.slow)])
def test_no_space_at_the_very_end_of_a_save(
    where: str, copied: Path, finished: tuple[Path, Outcome], gloo_pool: GlooPool, tiny_data: TinyData
) -> None:
    (outcome,) = gloo_pool.run(1, case_without_space, overrides(tiny_data, copied), where)
    assert outcome.code == 2 and "No space left on device" in outcome.message
    assert "earlier checkpoints are untouched" in outcome.message and "\n" not in outcome.message
    resumable(copied, finished, gloo_pool, tiny_data)


def test_no_space_for_metrics(copied: Path, gloo_pool: GlooPool, tiny_data: TinyData) -> None:
    (outcome,) = gloo_pool.run(1, case_without_space, overrides(tiny_data, copied), "metrics")
    assert outcome.code == 2 and "No space left on device" in outcome.message
    assert checkpoint_names(copied) == ["step_00000004", "step_00000008"]


def test_no_room_for_model_nemo(
    copied: Path, gloo_pool: GlooPool, tiny_data: TinyData, finished: tuple[Path, Outcome]
) -> None:
    """The checkpoint fits, the archive (all in one file) does not."""
    largest = max(
        file.stat().st_size for file in (finished[0] / "tiny" / "checkpoints").rglob("*") if file.is_file()
    )
    settings = overrides(tiny_data, copied, save_nemo="true", trainer__checkpoint__every_n_steps="12")
    # A checkpoint is larger than the archive, so the run is first finished without a limit.
    run(gloo_pool, tiny_data, copied)
    (outcome,) = gloo_pool.run(1, run_case, settings, 300_000)
    assert largest > 300_000
    assert outcome.code == 2 and "model.nemo" in outcome.message and "\n" not in outcome.message
    assert not [path.name for path in (copied / "tiny").iterdir() if "nemo" in path.name]
    (outcome,) = gloo_pool.run(1, run_case, settings)
    assert outcome.code == 0 and (copied / "tiny" / "model.nemo").is_file()


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """``mount(options)`` gives a file system with those limits."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    point = tmp_path / "disk"
    point.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)], capture_output=True
        )
        if done.returncode:
            pytest.skip("tmpfs cannot be mounted here")
        return point

    yield mount
    subprocess.run(["umount", str(point)], capture_output=True)


@pytest.mark.slow
def test_a_disk_with_room_for_half_a_checkpoint_loses_its_oldest_one(
    small_disk: Any, copied: Path, finished: tuple[Path, Outcome], tiny_data: TinyData
) -> None:
    used = sum(file.stat().st_size for file in copied.rglob("*") if file.is_file())
    one = sum(file.stat().st_size for file in (copied / "tiny" / "checkpoints" / "step_00000008").rglob("*"))
    disk = small_disk(f"size={used + one // 2 + 200_000}")
    shutil.copytree(copied / "tiny", disk / "tiny")
    process = start(overrides(tiny_data, disk))
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "GB free, a checkpoint takes" in err
    assert checkpoint_names(disk) == ["step_00000008", "step_00000012"]
    assert verify(disk / "tiny" / "checkpoints" / "step_00000012")["step"] == 12


@pytest.mark.slow
def test_full_disk_as_a_user_sees_it(
    small_disk: Any, copied: Path, finished: tuple[Path, Outcome], gloo_pool: GlooPool, tiny_data: TinyData
) -> None:
    """A real process on a real file system that has bytes, but too few inodes for one more checkpoint."""
    entries = sum(1 for _ in copied.rglob("*"))
    disk = small_disk(f"nr_inodes={entries + 6}")
    shutil.copytree(copied / "tiny", disk / "tiny")
    process = start(overrides(tiny_data, disk))
    out, err = process.communicate(timeout=240)
    assert process.returncode == 2, err
    (line,) = err.splitlines()
    assert line.startswith("error: ") and "No space left on device" in line and "step_00000012" in line
    assert re.search(r"^step +12/12 ", out, re.MULTILINE)
    assert checkpoint_names(disk) == ["step_00000004", "step_00000008"]
    shutil.rmtree(copied)
    shutil.copytree(disk / "tiny", copied / "tiny")
    resumable(copied, finished, gloo_pool, tiny_data)
