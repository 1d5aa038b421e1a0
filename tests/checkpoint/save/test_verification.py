"""Checkpoints that are read back as soon as they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from recipes.checkpoint.save import publish as publishing
from recipes.checkpoint.save.manifest import finished_checkpoints, verify
from recipes.checkpoint.save.verification import BackgroundVerification
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case


def overrides(data: TinyData, output_dir: Path, **changes: str) -> list[str]:
    settings = {
        "output_dir": str(output_dir),
        "save_nemo": "false",
        "trainer__max_steps": "8",
        "trainer__checkpoint__every_n_steps": "2",
        "trainer__checkpoint__keep_last": "1",
        "trainer__checkpoint__verify": "background",
    }
    return data.overrides(**settings | changes)


def damaging_case(settings: list[str], step: int, times: int = 1) -> Outcome:
    """A run whose disk turns a bit of one step's tensors as they are written, the first ``times``."""
    original: Any = publishing.put_in_place
    left = [step] * times

    def damage(partial: Path, target: Path, **options: Any) -> None:
        original(partial, target, **options)
        if left and target.name == f"step_{left[0]:08d}":
            left.pop()
            path = target / "__0_0.distcp"
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)

    with patch.object(publishing, "put_in_place", damage):
        return run_case(settings)


def names(output_dir: Path) -> list[str]:
    return sorted(path.name for path in (output_dir / "tiny" / "checkpoints").iterdir())


def test_a_damaged_one_is_set_aside_and_the_one_before_stays(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """The last one was saved once more before, and damaged again."""
    (outcome,) = gloo_pool.run(1, damaging_case, overrides(tiny_data, tmp_path), 8, 2)
    assert outcome.code == 0
    warning, again = outcome.stderr.splitlines()
    assert "__0_0.distcp does not have the manifest's SHA-256; it is damaged; step_00000008 was" in warning
    assert again == warning
    # keep_last=1: were older ones deleted at once, none would be whole.
    assert names(tmp_path) == ["damaged_step_00000008", "step_00000006"]
    verify(finished_checkpoints(tmp_path / "tiny" / "checkpoints")[-1])
    assert {"event": "damaged_checkpoint", "step": 8, "checkpoint": "step_00000008"} in outcome.metrics
    (resumed,) = gloo_pool.run(1, run_case, overrides(tiny_data, tmp_path))
    assert resumed.losses == outcome.losses and names(tmp_path) == ["damaged_step_00000008", "step_00000008"]


@pytest.mark.parametrize("validated", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_damaged_last_one_is_saved_once_more(
    validated: bool, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """By all ranks: the run would else be called done, and its last steps be trained again."""
    validation = {
        "data__valid": f"{{en:{tiny_data.prefix('valid_en')}}}",
        "trainer__val_check_interval": "8",
        "trainer__checkpoint__keep_best": "1",
    }
    settings = overrides(tiny_data, tmp_path, **(validation if validated else {}))
    outcomes = gloo_pool.run(2, damaging_case, settings, 8)
    assert [outcome.code for outcome in outcomes] == [0, 0]
    (warning,) = outcomes[0].stderr.splitlines()
    assert "step_00000008 was damaged as it was written" in warning and not outcomes[1].stderr
    best = ["best"] if validated else []
    assert names(tmp_path) == [*best, "damaged_step_00000008", "step_00000008"]
    verify(finished_checkpoints(tmp_path / "tiny" / "checkpoints")[-1])
    (again, _) = gloo_pool.run(2, run_case, settings)
    assert "is complete: 8 steps" in again.stdout


def test_in_the_midst_of_a_run(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    settings = overrides(tiny_data, tmp_path, trainer__checkpoint__async_save="true")
    outcomes = gloo_pool.run(2, damaging_case, settings, 4)
    assert [outcome.code for outcome in outcomes] == [0, 0]
    assert "step_00000004 was damaged as it was written" in outcomes[0].stderr and not outcomes[1].stderr
    assert names(tmp_path) == ["damaged_step_00000004", "step_00000008"]


def test_abandoned_in_the_midst(tmp_path: Path) -> None:
    from recipes.checkpoint.save.manifest import write_manifest

    (tmp_path / "large").write_bytes(bytes(2**28))
    write_manifest(tmp_path, step=1)
    verification = BackgroundVerification()
    assert verification.finish(wait=True) is None
    verification.start(tmp_path)
    verification.abandon()
    assert verification.finish(wait=True) is None
    verification.start(tmp_path)
    verified = verification.finish(wait=True)
    assert verified is not None and verified.damage == ""
