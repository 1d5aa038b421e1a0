"""Which checkpoints stay, on directories with manifests only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.checkpoint.save.manifest import (
    MANIFEST,
    finished_checkpoints,
    remove_partial,
    set_aside_newer,
    step_directory,
    verify,
    write_manifest,
)
from recipes.checkpoint.save.retention import (
    BEST,
    VALIDATED_LATER,
    forget_missing_best,
    point_to_best,
    prune,
    record_valid_loss,
    steps_to_keep,
)


def make(checkpoints: Path, step: int, loss: float | None = None) -> Path:
    directory = step_directory(checkpoints, step)
    directory.mkdir(parents=True)
    (directory / "common.pt").write_bytes(step.to_bytes(4, "big"))
    facts: dict[str, Any] = {"step": step} if loss is None else {"step": step, "valid_loss": loss}
    write_manifest(directory, **facts)
    return directory


def steps(checkpoints: Path) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in finished_checkpoints(checkpoints)]


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


LOSSES = st.dictionaries(
    st.integers(0, 60), st.none() | st.sampled_from([1.0, 1.5, 2.0, 2.5, 3.0]), max_size=25
)


@given(LOSSES, st.integers(1, 5), st.integers(0, 4), st.none() | st.integers(1, 20))
def test_each_step_stays_for_a_reason_and_each_reason_is_served(
    losses: dict[int, float | None], last: int, best: int, every: int | None
) -> None:
    kept = steps_to_keep(losses, last, best, every)
    assert kept <= set(losses)
    for step, loss in losses.items():
        newer = sum(other > step for other in losses)
        better = sum(
            other is not None and loss is not None and (other < loss or (other == loss and at > step))
            for at, other in losses.items()
        )
        wanted = (
            newer < last or (loss is not None and better < best) or (every is not None and step % every == 0)
        )
        assert (step in kept) == wanted, step


@given(
    losses=st.lists(st.none() | st.integers(1, 9).map(float), min_size=1, max_size=12),
    last=st.integers(1, 3),
    best=st.integers(1, 3),
    every=st.none() | st.integers(2, 5),
)
@settings(max_examples=50, deadline=None)
def test_pruned_after_every_save_nothing_that_matters_is_lost(
    tmp_path_factory: pytest.TempPathFactory,
    losses: list[float | None],
    last: int,
    best: int,
    every: int | None,
) -> None:
    """As a run does it. The best of all that were ever saved are there at the end, and the link is right."""
    checkpoints = tmp_path_factory.mktemp("run")
    for step, loss in enumerate(losses, 1):
        make(checkpoints, step, loss)
        found = prune(checkpoints, keep_last=last, keep_best=best, keep_every_n_steps=every)
    all_losses = dict(enumerate(losses, 1))
    assert set(steps(checkpoints)) == steps_to_keep(all_losses, last, best, every)
    measured = [loss for loss in losses if loss is not None]
    if not measured:
        assert found is None and not (checkpoints / BEST).is_symlink()
    else:
        assert found is not None and found.valid_loss == min(measured)
        assert (checkpoints / BEST).resolve() == found.path.resolve()
        assert json.loads((checkpoints / BEST / MANIFEST).read_text())["valid_loss"] == min(measured)
    remove_partial(checkpoints)
    expected = len(steps(checkpoints)) + bool(measured)
    assert len(list(checkpoints.iterdir())) == expected, "nothing but checkpoints and the link"


def test_the_newest_alone_without_further_wishes(checkpoints: Path) -> None:
    for step in (1, 2, 3, 10, 11):
        make(checkpoints, step, 1.0 * step)
    assert prune(checkpoints, keep_last=2) is None
    assert steps(checkpoints) == [10, 11] and len(list(checkpoints.iterdir())) == 2
    prune(checkpoints, keep_last=5)
    assert steps(checkpoints) == [10, 11]


def test_the_link_survives_a_move_of_the_run_and_goes_with_the_wish(
    checkpoints: Path, tmp_path: Path
) -> None:
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0)):
        make(checkpoints, step, loss)
    prune(checkpoints, keep_last=1, keep_best=1)
    shutil.move(checkpoints, tmp_path / "moved")
    assert (tmp_path / "moved" / BEST).resolve() == tmp_path / "moved" / "step_00000002"
    prune(tmp_path / "moved", keep_last=1)
    assert [path.name for path in (tmp_path / "moved").iterdir()] == ["step_00000003"]


@pytest.mark.parametrize("loss", ["NaN", "Infinity", '"1.0"', "null"])
def test_a_loss_that_is_no_number_is_no_best(loss: str, checkpoints: Path) -> None:
    make(checkpoints, 1, 5.0)
    manifest = make(checkpoints, 2, 0.125) / MANIFEST
    manifest.write_text(manifest.read_text().replace("0.125", loss))
    make(checkpoints, 3)
    best = prune(checkpoints, keep_last=1, keep_best=1)
    assert best is not None and best.path.name == "step_00000001" and steps(checkpoints) == [1, 3]


def test_a_loss_that_comes_after_the_save_counts_and_leaves_the_manifest_alone(checkpoints: Path) -> None:
    make(checkpoints, 1, 5.0)
    later = make(checkpoints, 2)
    manifest = (later / MANIFEST).read_bytes()
    record_valid_loss(later, 1.0)
    make(checkpoints, 3)
    best = prune(checkpoints, keep_last=1, keep_best=1)
    assert best is not None and (best.path, best.valid_loss) == (later, 1.0) and steps(checkpoints) == [2, 3]
    assert verify(later) and (later / MANIFEST).read_bytes() == manifest


@pytest.mark.parametrize("content", [b"", b"{", b"[1.0]", b'{"valid_loss": "1.0"}', b'{"valid_loss": NaN}'])
def test_a_later_loss_that_cannot_be_read_is_none(content: bytes, checkpoints: Path) -> None:
    make(checkpoints, 1, 5.0)
    (make(checkpoints, 2) / VALIDATED_LATER).write_bytes(content)
    best = prune(checkpoints, keep_last=1, keep_best=1)
    assert best is not None and best.path.name == "step_00000001" and steps(checkpoints) == [1, 2]


def test_a_manifest_that_cannot_be_read_is_no_best(checkpoints: Path) -> None:
    make(checkpoints, 1, 5.0)
    (make(checkpoints, 2, 1.0) / MANIFEST).write_bytes(b"{")
    best = prune(checkpoints, keep_last=1, keep_best=1)
    assert best is not None and best.path.name == "step_00000001" and steps(checkpoints) == [1, 2]


def test_pointing_anew_deletes_nothing_but_a_link_to_nowhere(checkpoints: Path) -> None:
    make(checkpoints, 1, 5.0)
    make(checkpoints, 2, 1.0)
    make(checkpoints, 3)
    point_to_best(checkpoints, 0)
    assert not (checkpoints / BEST).is_symlink()
    for keep_best in (1, 0):
        point_to_best(checkpoints, keep_best)
        assert (checkpoints / BEST).readlink() == Path("step_00000002") and steps(checkpoints) == [1, 2, 3]
    shutil.rmtree(checkpoints / "step_00000002")
    point_to_best(checkpoints, 0)
    assert not (checkpoints / BEST).is_symlink()


def test_no_link_to_a_best_that_was_set_aside(checkpoints: Path) -> None:
    whole = make(checkpoints, 1, 5.0)
    make(checkpoints, 2, 1.0)
    prune(checkpoints, keep_last=2, keep_best=1)
    forget_missing_best(checkpoints)
    assert (checkpoints / BEST).is_symlink()
    set_aside_newer(checkpoints, whole)
    forget_missing_best(checkpoints)
    assert not (checkpoints / BEST).is_symlink()
