"""A step whose gradients are not finite changes nothing on any rank, and the run goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from recipes.checkpoint.formats.safety import load_plain
from recipes.checkpoint.save.manifest import finished_checkpoints, verify
from recipes.data.samples.indexed import check_prefix
from tests.support.corpus import TinyData
from tests.support.fault_cases import faulty_case, recorded_faulty_case
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case

GUARD = 4
NAN_AT_3 = "nan:rank=1,step=3"
FAMILIES = {"adamw": [], "muon": ["model=tiny_nano_hindi", "optim=muon"]}


def overrides(data: TinyData, output_dir: Path, **changes: str) -> list[str]:
    settings = {"output_dir": str(output_dir), "save_nemo": "false", "data__valid": "{}"}
    settings |= {"trainer__max_steps": "8", "trainer__checkpoint__every_n_steps": "1"}
    return data.overrides(**(settings | {"trainer__checkpoint__keep_last": "99"} | changes))


def checkpoint(output_dir: Path, step: int) -> Path:
    return output_dir / "tiny" / "checkpoints" / f"step_{step:08d}"


def contents(path: Path) -> dict[str, str]:
    """Digests of the files with weights and optimizer state."""
    return {name: file["sha256"] for name, file in verify(path)["files"].items() if "distcp" in name}


Skipped = Callable[[str], tuple[list[Outcome], Path]]


@pytest.fixture(scope="module")
def skipped(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Skipped:
    """Of a family the run whose third step is skipped, made once: what its ranks say, and where it is."""

    @cache
    def skipped(family: str) -> tuple[list[Outcome], Path]:
        directory = tmp_path_factory.mktemp(family)
        settings = [*overrides(tiny_data, directory), *FAMILIES[family], "name=tiny"]
        return gloo_pool.run(2, faulty_case, settings, NAN_AT_3), directory

    return skipped


@pytest.mark.parametrize("family", FAMILIES)
def test_it_changes_nothing(
    family: str, skipped: Skipped, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    outcomes, directory = skipped(family)
    assert [outcome.code for outcome in outcomes] == [0, 0]
    losses = outcomes[0].losses
    assert [*losses] == [1, 2, 4, 5, 6, 7, 8], "what the skipped step logs are no numbers"
    # Its own checkpoint is left out; the next one shows that AdamW has counted one step less.
    steps = [verify(path)["step"] for path in finished_checkpoints(directory / "tiny" / "checkpoints")]
    assert steps == [1, 2, 4, 5, 6, 7, 8]
    (event,) = [record for record in outcomes[0].metrics if record.get("event") == "skipped_step"]
    assert (event["step"], event["grad_norm"], event["samples"]) == (3, "nan", [16, 23])
    assert "step 3 skipped: the gradient norm is nan; samples 16 to 23" in outcomes[0].stderr
    for source, documents in event["documents"].items():
        written = check_prefix(tiny_data.prefix(f"train_{source}")).documents
        assert documents and all(0 <= document < written for document in documents)

    clean = overrides(tiny_data, tmp_path / "clean", trainer__max_steps="4")
    (whole, _) = gloo_pool.run(2, run_case, [*clean, *FAMILIES[family], "name=tiny"])
    assert [losses[1], losses[2]] == [whole.losses[1], whole.losses[2]]
    assert losses[4] != whole.losses[4], "the third update is missing"


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_and_moments_stay_and_it_does_not_count(
    family: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """The run ends with the skipped step, which is saved then."""
    settings = [*overrides(tiny_data, tmp_path, trainer__max_steps="3"), *FAMILIES[family], "name=tiny"]
    assert [each.code for each in gloo_pool.run(2, faulty_case, settings, NAN_AT_3)] == [0, 0]
    before, after = checkpoint(tmp_path, 2), checkpoint(tmp_path, 3)
    assert contents(before) == contents(after)
    assert contents(checkpoint(tmp_path, 1)) != contents(before), "sound steps do change them"
    ours, theirs = (load_plain(path / "common.pt") for path in (before, after))
    assert _counts(ours["optimizer"]) == _counts(theirs["optimizer"]) == {2}
    assert (ours["global_step"], theirs["global_step"]) == (2, 3), "the schedule goes on"


def _counts(state: object) -> set[int]:
    """AdamW's step counts in a checkpoint's plain part, wherever they are."""
    found: set[int] = set()
    if isinstance(state, dict):
        for key, value in state.items():
            if key in ("step", "num_steps") and isinstance(value, int):
                found.add(value)
            else:
                found |= _counts(value)
    elif isinstance(state, list):
        found = set().union(*map(_counts, state)) if state else set()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_resume_after_it_is_exact(
    family: str, skipped: Skipped, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    (whole, _), directory = skipped(family)
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    for step in (6, 7, 8):
        shutil.rmtree(checkpoint(tmp_path, step))
    settings = [*overrides(tiny_data, tmp_path), *FAMILIES[family], "name=tiny"]
    (resumed, _) = gloo_pool.run(2, run_case, settings)
    assert {"event": "resumed", "step": 5, "checkpoint": "step_00000005"} in resumed.metrics
    assert resumed.losses == whole.losses


def test_a_recorded_step_is_skipped_as_well(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """Steps 6 and 7 are replayed, and host and device count them alike."""
    faults = "nan:step=6,until=7"
    plain, recorded = (
        gloo_pool.run(1, case, overrides(tiny_data, tmp_path / name, trainer__max_steps="12"), faults)[0]
        for name, case in (("plain", faulty_case), ("recorded", recorded_faulty_case))
    )
    assert [*plain.losses] == [1, 2, 3, 4, 5, 8, 9, 10, 11, 12]
    assert recorded.losses == plain.losses
    assert contents(checkpoint(tmp_path / "recorded", 12)) == contents(checkpoint(tmp_path / "plain", 12))


def test_too_many_in_a_row_end_the_run(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    settings = [*overrides(tiny_data, tmp_path), "trainer.guards.max_skipped_steps=2"]
    outcomes = gloo_pool.run(2, faulty_case, settings, f"{NAN_AT_3}; nan:step=5,until=8")
    assert [outcome.code for outcome in outcomes] == [GUARD, GUARD]
    last = outcomes[0].stderr.splitlines()[-1]
    assert last.startswith(
        "stopped by a guard: 2 steps in a row were skipped; the last, step 6: the gradient"
    )
    skipped = [record["step"] for record in outcomes[0].metrics if record.get("event") == "skipped_step"]
    assert skipped == [3, 5, 6]
    assert not checkpoint(tmp_path, 6).exists() and checkpoint(tmp_path, 4).exists()
