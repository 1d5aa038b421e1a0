"""Saving while training goes on: the same checkpoints, and nothing left by a death or a full disk."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.checkpoint import FileSystemReader

from recipes.checkpoint.formats.safety import load_plain
from recipes.checkpoint.save.manifest import MANIFEST, finished_checkpoints, read_manifest, verify
from recipes.config.hydra_app import compose
from recipes.config.validate import validate_pretrain
from recipes.errors import UserError
from tests.support.background_cases import (
    NEVER,
    abandoned_case,
    counted_case,
    crowded_case,
    held_case,
    held_until_case,
    late_case,
    limited_case,
    metrics_refused_case,
    stop_from_step_4,
    unfinished_case,
)
from tests.support.corpus import TinyData
from tests.support.device_runs import shared_state
from tests.support.fault_cases import ends, start_ranks
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case, start, wait_for_file, wait_for_step

DP2 = ["parallel.world_size=2"]
TP2 = ["parallel.tensor_model_parallel_size=2", "parallel.sequence_parallel=true"]
TP2_PP2 = [*TP2, "parallel.pipeline_model_parallel_size=2"]
MUON = ["model=tiny_nano_hindi", "optim=muon"]
SYNCHRONOUS = "trainer.checkpoint.async_save=false"
ASYNCHRONOUS = "trainer.checkpoint.async_save=true"


def overrides(data: TinyData, output_dir: Path, **changes: str) -> list[str]:
    settings = {
        "output_dir": str(output_dir),
        "save_nemo": "false",
        "trainer__max_steps": "12",
        "trainer__checkpoint__every_n_steps": "4",
        "trainer__checkpoint__keep_last": "9",
        "trainer__checkpoint__async_save": "true",
    }
    return data.overrides(**settings | changes)


def checkpoints(output_dir: Path) -> Path:
    return output_dir / "tiny" / "checkpoints"


def names(output_dir: Path) -> list[str]:
    return sorted(path.name for path in checkpoints(output_dir).iterdir())


@pytest.fixture(scope="module")
def synchronous(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path_factory: Any) -> tuple[Path, Outcome]:
    """12 steps of one process with synchronous saves at 4, 8 and 12."""
    output_dir = tmp_path_factory.mktemp("synchronous")
    (outcome,) = gloo_pool.run(1, run_case, [*overrides(tiny_data, output_dir), SYNCHRONOUS])
    assert names(output_dir) == ["step_00000004", "step_00000008", "step_00000012"]
    return output_dir, outcome


def assert_same(output_dir: Path, other_dir: Path) -> None:
    """Two runs' checkpoints, byte by byte, and that training changes the state."""
    contents = set()
    for path in finished_checkpoints(checkpoints(output_dir)):
        other = checkpoints(other_dir) / path.name
        files, others = verify(path)["files"], read_manifest(other)["files"]
        # It names the directory and has a random number.
        assert {*files.pop(".metadata")} == {*others.pop(".metadata")}
        # The settings are in it, of which one differs here.
        assert {*files.pop("common.pt")} == {*others.pop("common.pt")}
        assert shared_state(path) == shared_state(other)
        described, of_other = FileSystemReader(path).read_metadata(), FileSystemReader(other).read_metadata()
        assert described.state_dict_metadata == of_other.state_dict_metadata
        assert described.storage_data == of_other.storage_data
        assert files == others
        contents.add(files["__0_0.distcp"]["sha256"])
    assert len(contents) == 3


LAYOUTS = {"single": (1, []), "muon": (1, MUON), "tp2": (2, TP2), "dp2": (2, DP2), "tp2_pp2": (4, TP2_PP2)}
SLOW = ("tp2", "dp2", "tp2_pp2")


@pytest.mark.parametrize(
    "layout",
    [pytest.param(layout, marks=[pytest.mark.slow] if layout in SLOW else []) for layout in LAYOUTS],
)
def test_what_is_written_later_is_the_state_of_its_step(
    layout: str,
    synchronous: tuple[Path, Outcome],
    gloo_pool: GlooPool,
    tiny_data: TinyData,
    tmp_path: Path,
) -> None:
    """The writers begin when training is two steps further; every byte is that of a synchronous save."""
    world, settings = LAYOUTS[layout]
    ours, plain = tmp_path / "ours", tmp_path / "plain"
    held = gloo_pool.run(world, held_case, [*overrides(tiny_data, ours), *settings, ASYNCHRONOUS], 2)
    outcomes = [outcome for outcome, _ in held]
    assert [outcome.code for outcome in outcomes] == [0] * world
    assert held[0][1] == 2, "steps 4 and 8; the end is waited for"
    reference = gloo_pool.run(world, run_case, [*overrides(tiny_data, plain), *settings, SYNCHRONOUS])[0]
    assert outcomes[0].losses == reference.losses
    assert names(ours) == names(plain) == ["step_00000004", "step_00000008", "step_00000012"]
    assert_same(ours, plain)
    assert (checkpoints(ours) / "step_00000012" / f"__{world - 1}_0.distcp").exists() or layout == "dp2"
    if layout.startswith("tp2"):
        # Under one process: as the run that had one process all along.
        shutil.rmtree(checkpoints(ours) / "step_00000012")
        (resumed,) = gloo_pool.run(1, run_case, overrides(tiny_data, ours))
        assert {"event": "resumed", "step": 8, "checkpoint": "step_00000008"} in resumed.metrics
        assert resumed.losses == pytest.approx(synchronous[1].losses, rel=1e-5)
        shutil.rmtree(checkpoints(plain) / "step_00000012")
        (again,) = gloo_pool.run(1, run_case, overrides(tiny_data, plain))
        assert resumed.losses == again.losses


EMA = ["trainer.ema.decay=0.9", "trainer.val_check_interval=5", "trainer.limit_val_batches=1"]
LATE = {
    "adamw": [],
    "muon": MUON,
    "biases of routers": ["model=tiny_param2_moe", "model.moe_router_enable_expert_bias=true"],
    "averages in the model": EMA,
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow) for case in LATE])
def test_copies_made_beside_training_are_of_their_step(
    case: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """A GPU may copy a tensor until shortly before it changes; in its last step, before a validation."""
    ours, plain = tmp_path / "ours", tmp_path / "plain"
    ((outcome, made),) = gloo_pool.run(1, late_case, [*overrides(tiny_data, ours), *LATE[case]], 2)
    assert outcome.code == 0 and made > 3 * 20
    gloo_pool.run(1, run_case, [*overrides(tiny_data, plain), *LATE[case], SYNCHRONOUS])
    assert_same(ours, plain)


def test_it_is_announced_when_it_is_there(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    ((outcome, _),) = gloo_pool.run(1, held_case, overrides(tiny_data, tmp_path), 2)
    lines = outcome.stdout.splitlines()
    (place,) = [place for place, line in enumerate(lines) if line.startswith("saved") and "00000004" in line]
    assert any(re.match(r"step +6/12 ", line) for line in lines[:place])
    assert "training stood still for" in lines[place] and outcome.stderr == ""


def test_what_does_not_change_is_not_done_at_every_save(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    ((outcome, hashed, left_out),) = gloo_pool.run(1, counted_case, overrides(tiny_data, tmp_path))
    assert outcome.code == 0 and hashed == 1
    # One for each of three saves; the modules alone are half a million objects.
    assert len(left_out) == 3 and min(left_out) > 100_000


# Two under way


def saved(outcome: Outcome) -> list[int]:
    """The steps that were announced, in that order."""
    lines = [line for line in outcome.stdout.splitlines() if line.startswith("saved")]
    return [int(line.split("step_")[1][:8]) for line in lines]


@pytest.mark.parametrize("layout", ["single", pytest.param("dp2", marks=pytest.mark.slow)])
def test_two_under_way_are_of_their_steps(
    layout: str,
    synchronous: tuple[Path, Outcome],
    gloo_pool: GlooPool,
    tiny_data: TinyData,
    tmp_path: Path,
) -> None:
    """Steps 4 and 8 are written after step 10; every byte is that of a save that was waited for."""
    (world, settings), ours, plain = LAYOUTS[layout], tmp_path / "ours", synchronous[0]
    held = gloo_pool.run(world, held_until_case, [*overrides(tiny_data, ours), *settings], 10)
    outcome, under_way = held[0]
    assert outcome.code == 0 and outcome.stderr == "" and saved(outcome) == [4, 8, 12]
    assert under_way == [2, 1], "steps 4 and 8 at step 10; step 12 at the end"
    losses = synchronous[1].losses
    if world > 1:
        plain = tmp_path / "plain"
        alone = gloo_pool.run(world, run_case, [*overrides(tiny_data, plain), *settings, SYNCHRONOUS])
        losses = alone[0].losses
    assert outcome.losses == losses
    assert_same(ours, plain)


EVERY_STEP = {"trainer__checkpoint__every_n_steps": "1", "trainer__max_steps": "6"}
NOBODY = -1
MAY_NEED_IT = "may need the host memory for another"


@pytest.mark.parametrize(
    ("world", "short_of_memory", "most", "why"),
    [
        (1, NOBODY, 2, "2 saves are under way"),
        (1, 0, 1, "no host memory for the copies of another"),
        pytest.param(2, NOBODY, 2, "2 saves are under way", marks=pytest.mark.slow),
        (2, 1, 1, "no host memory for the copies of another"),
        pytest.param(1, NOBODY, 1, f"local checkpoints {MAY_NEED_IT}", marks=pytest.mark.slow),
    ],
)
def test_how_many_at_a_time(
    world: int,
    short_of_memory: int,
    most: int,
    why: str,
    gloo_pool: GlooPool,
    tiny_data: TinyData,
    tmp_path: Path,
) -> None:
    """A save every step, written when it is waited for: each is there, none overtakes, one is written at a
    time; and where one node's memory has no room for two, all ranks wait.
    """
    settings = [*overrides(tiny_data, tmp_path, **EVERY_STEP), f"parallel.world_size={world}"]
    if why.startswith("local"):
        settings += [
            f"trainer.checkpoint.local.{key}" for key in (f"directory={tmp_path}", "every_n_steps=9")
        ]
    ranks = gloo_pool.run(world, crowded_case, settings, short_of_memory)
    outcome = ranks[0][0]
    assert outcome.code == 0 and len(names(tmp_path)) == 6 and saved(outcome) == [1, 2, 3, 4, 5, 6]
    assert [(under_way, at_work) for _, under_way, at_work in ranks] == [(most, 1)] * world
    (warning,) = outcome.stderr.splitlines()
    waits = f"the save of step 1 is not written yet, training waits for it ({why}); save less often"
    assert warning == f"warning: trainer.checkpoint.every_n_steps=1: {waits}"


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_signal_is_obeyed_after_the_saves_under_way(
    world: int, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    settings = [*overrides(tiny_data, tmp_path), f"parallel.world_size={world}"]
    ranks = gloo_pool.run(world, held_until_case, settings, NEVER, f"terminate:rank={world - 1},step=9")
    outcome, under_way = ranks[0]
    stopped = 9 if world == 1 else 10  # Several ranks agree one step later.
    assert [each.code for each, _ in ranks] == [3] * world and under_way[0] == 2
    assert saved(outcome) == [4, 8, stopped]
    assert [verify(path)["step"] for path in finished_checkpoints(checkpoints(tmp_path))] == saved(outcome)
    assert len(names(tmp_path)) == 3


@pytest.mark.slow
def test_a_guard_leaves_what_was_begun_before(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    settings = [*overrides(tiny_data, tmp_path), *DP2, "trainer.guards.max_skipped_steps=1"]
    ranks = gloo_pool.run(2, held_until_case, settings, NEVER, "nan:step=9")
    assert [(outcome.code, under_way[0]) for outcome, under_way in ranks] == [(4, 2), (4, 2)]
    assert names(tmp_path) == ["step_00000004", "step_00000008"]
    for path in finished_checkpoints(checkpoints(tmp_path)):
        verify(path)


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_exception_abandons_both(
    world: int,
    synchronous: tuple[Path, Outcome],
    gloo_pool: GlooPool,
    tiny_data: TinyData,
    tmp_path: Path,
) -> None:
    """What a rank may have left that was still writing, the next start removes."""
    settings = [*overrides(tiny_data, tmp_path), f"parallel.world_size={world}"]
    assert gloo_pool.run(world, abandoned_case, settings, 9) == [(2, False)] * world
    left = set(names(tmp_path))
    assert left <= ({".step_00000004.partial", ".step_00000008.partial"} if world > 1 else set())
    ranks = gloo_pool.run(world, run_case, settings)
    assert ranks[0].code == 0 and names(tmp_path) == ["step_00000004", "step_00000008", "step_00000012"]
    if world == 1:
        assert ranks[0].losses == synchronous[1].losses


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_final_validation_and_the_best_of_two(
    world: int, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Both are under way when the last step's validation comes; both are read back, in their order."""
    changes = {
        "max_steps": "8", "val_check_interval": "16", "checkpoint__verify": "background",
        "checkpoint__keep_last": "1", "checkpoint__keep_best": "1",
    }  # fmt: skip
    settings = overrides(tiny_data, tmp_path, **{f"trainer__{key}": value for key, value in changes.items()})
    ranks = gloo_pool.run(world, held_until_case, [*settings, f"parallel.world_size={world}"], NEVER)
    outcome, under_way = ranks[0]
    assert outcome.code == 0 and under_way[0] == 2 and saved(outcome) == [4, 8]
    last = outcome.metrics[-1]
    loss = (last["valid.en.loss"] + last["valid.hi.loss"]) / 2
    assert last["step"] == 8 and f"best   step_00000008, validation loss {loss:.4f}" in outcome.stdout
    assert names(tmp_path) == ["best", "step_00000008"]


def test_another_error_ends_the_writer(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    ((outcome, writes),) = gloo_pool.run(1, metrics_refused_case, overrides(tiny_data, tmp_path), 5)
    assert outcome.code == 2 and outcome.message == "metrics.jsonl: cannot be written"
    assert not writes and names(tmp_path) == []


def test_it_is_refused_where_it_would_be_ignored(tiny_data: TinyData, tmp_path: Path) -> None:
    settings = overrides(tiny_data, tmp_path, trainer__checkpoint__every_n_steps="null")
    with pytest.raises(UserError, match=r"async_save=True: would be ignored: set .*every_n_steps"):
        validate_pretrain(compose("pretrain", settings))


# Disks that refuse

REFUSALS: dict[str, tuple[Any, ...]] = {
    "file of rank 0": (limited_case, 0, 200_000),
    "file of rank 1": (limited_case, 1, 200_000),
    "common.pt": (limited_case, 0, 8_000),
    ".metadata": (unfinished_case,),
    "directory": (run_case,),
}


USUAL = [("file of rank 1", "later")]


@pytest.mark.parametrize(
    ("where", "when"),
    [
        pytest.param(*case, marks=[] if case in USUAL else [pytest.mark.slow])
        for case in itertools.product(REFUSALS, ("later", "at once"))
    ],
)
def test_a_disk_that_refuses_one_of_two_ranks(
    where: str,
    when: str,
    synchronous: tuple[Path, Outcome],
    gloo_pool: GlooPool,
    tiny_data: TinyData,
    tmp_path: Path,
) -> None:
    shutil.copytree(synchronous[0] / "tiny", tmp_path / "tiny")
    shutil.rmtree(checkpoints(tmp_path) / "step_00000012")
    asynchronous = ASYNCHRONOUS if when == "later" else SYNCHRONOUS
    settings = overrides(tiny_data, tmp_path, trainer__checkpoint__every_n_steps="10")
    partial = checkpoints(tmp_path) / ".step_00000010.partial"
    if where == "directory":
        partial.write_bytes(b"in the way")
    case, *its_arguments = REFUSALS[where]
    outcomes = gloo_pool.run(2, case, [*settings, *TP2, asynchronous], *its_arguments)
    for outcome in outcomes:
        assert outcome.code == 2 and outcome.message == outcomes[0].message and "\n" not in outcome.message
        assert "step_00000010: cannot be saved" in outcome.message
        assert "earlier checkpoints are untouched" in outcome.message
    # The writer's failure of step 10 is noticed at the next step's end, or at the end of training.
    last = max(outcomes[0].losses)
    assert last == 10 if when == "at once" or where == "directory" else last in (10, 11, 12)
    partial.unlink(missing_ok=True)
    assert names(tmp_path) == ["step_00000004", "step_00000008"]
    (resumed,) = gloo_pool.run(1, run_case, overrides(tiny_data, tmp_path))
    assert resumed.code == 0 and resumed.losses == synchronous[1].losses


def test_a_disk_that_refuses_the_first_of_two(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """The one that has begun after it goes too, on all ranks: nothing is left behind."""
    settings = [*overrides(tiny_data, tmp_path), *TP2]
    ranks = gloo_pool.run(2, held_until_case, settings, 10, "", {1: 200_000})
    assert [(outcome.code, under_way) for outcome, under_way in ranks] == [(2, [2]), (2, [2])]
    assert ranks[0][0].message == ranks[1][0].message and "step_00000004: cannot" in ranks[0][0].message
    assert names(tmp_path) == []


# Death


def alive_in_session(session: int) -> list[int]:
    """Processes of a session that are no zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, its_session = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:4]
            except OSError:
                continue
            if int(its_session) == session and state not in "ZX":
                found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_kill_9_during_a_save_leaves_no_process_and_no_checkpoint(
    synchronous: tuple[Path, Outcome], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    settings = overrides(tiny_data, tmp_path, trainer__max_steps="100000", optim__lr_decay_steps="20")
    launcher = ("-m", "tests.support.background_cases", "stuck")
    process = start(settings, launcher, start_new_session=True)
    partial, after = (checkpoints(tmp_path) / f".step_{step:08d}.partial" for step in (8, 12))
    try:
        wait_for_step(tmp_path / "tiny" / "metrics.jsonl", 14, lambda: process.poll() is None)
        # Step 4 is whole, the writer of step 8 stands in the middle of its file, and step 12 waits for it.
        wait_for_file(partial, lambda: process.poll() is None)
        assert list(after.iterdir()) == []
        assert process.pid in alive_in_session(process.pid)
        process.kill()
        process.communicate(timeout=240)  # Nobody holds its output open.
    finally:
        process.kill()
    deadline = time.monotonic() + 240
    while alive_in_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive_in_session(process.pid) == []
    assert names(tmp_path) == [partial.name, after.name, "step_00000004"]
    assert not (partial / MANIFEST).exists()
    (resumed,) = gloo_pool.run(1, run_case, overrides(tiny_data, tmp_path))
    assert {"event": "resumed", "step": 4, "checkpoint": "step_00000004"} in resumed.metrics
    assert resumed.losses == synchronous[1].losses
    assert names(tmp_path) == ["step_00000004", "step_00000008", "step_00000012"]


@pytest.mark.slow
def test_kill_9_of_two_ranks_during_two_saves(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    (alone, _) = gloo_pool.run(2, run_case, [*overrides(tiny_data, plain), *DP2, SYNCHRONOUS])
    settings = [*overrides(tiny_data, ours, trainer__checkpoint__every_n_steps="2"), *DP2]
    faults = "; ".join(f"kill:rank={rank},step=8" for rank in range(2))
    killed = ends(start_ranks(settings, faults, also=stop_from_step_4))
    assert [code for code, _, _ in killed] == [-signal.SIGKILL] * 2, killed[0][2]
    assert names(ours) == [".step_00000004.partial", ".step_00000006.partial", "step_00000002"]
    resumed = gloo_pool.run(2, run_case, settings)[0]
    assert {"event": "resumed", "step": 2, "checkpoint": "step_00000002"} in resumed.metrics
    assert resumed.losses == alone.losses
    assert names(ours) == [f"step_{step:08d}" for step in range(2, 13, 2)]


@pytest.mark.slow
def test_killed_in_the_midst_of_real_saves(
    synchronous: tuple[Path, Outcome], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """A save after every step, and kills whenever it happens: always a whole checkpoint to go on from."""
    settings = overrides(tiny_data, tmp_path, trainer__checkpoint__every_n_steps="1")
    metrics = tmp_path / "tiny" / "metrics.jsonl"
    for step in (2, 4, 6, 8):
        process = start(settings, start_new_session=True)
        try:
            wait_for_step(metrics, step, lambda pid=process.pid: pid in alive_in_session(pid))  # type: ignore[misc]
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=240)
        finally:
            process.kill()
        assert alive_in_session(process.pid) == []
    (resumed,) = gloo_pool.run(1, run_case, settings)
    assert resumed.losses == synchronous[1].losses
    for path in finished_checkpoints(checkpoints(tmp_path)):
        assert load_plain(path / "common.pt")["global_step"] == verify(path)["step"]
