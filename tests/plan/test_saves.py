"""How long a planned checkpoint takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recipes.config.hydra_app import compose
from recipes.plan.saves import AGREED_S, expected_save

SIZE = 14 * 2_860_648_448
SHAKTI = compose("cluster", ["cluster=shakti_512xh100"]).cluster


def test_ranks_write_together_until_the_file_system_takes_no_more() -> None:
    config = compose("pretrain", ["experiment=param1_2p9b"])
    few, many = (expected_save(config, SHAKTI, ranks) for ranks in (4, 512))
    assert few.written_after == pytest.approx(SIZE / 8e9)
    assert many.written_after == pytest.approx(SIZE / 20e9)
    faster = replace(SHAKTI, hardware=replace(SHAKTI.hardware, storage_gb_per_s=100.0))
    assert expected_save(config, faster, 512).written_after == pytest.approx(SIZE / 100e9)
    assert few.held == many.held == AGREED_S


def test_a_save_that_is_waited_for_and_one_with_an_average() -> None:
    waits = compose("pretrain", ["experiment=param1_2p9b", "trainer.checkpoint.async_save=false"])
    averaged = compose("pretrain", ["experiment=param1_2p9b", "trainer.ema.decay=0.99"])
    save = expected_save(waits, SHAKTI, 512)
    assert (save.held, save.written_after) == (pytest.approx(AGREED_S + SIZE / 20e9), 0.0)
    assert save.under_way == 1
    assert expected_save(averaged, SHAKTI, 512).written_after == pytest.approx(18 / 14 * SIZE / 20e9)


def test_two_are_under_way_where_memory_has_room_for_both() -> None:
    """0.63 GB of copies a node for each: 1.25 GB, and a tenth of what is free is left."""
    config = compose("pretrain", ["experiment=param1_2p9b"])
    local = compose("pretrain", ["experiment=param1_2p9b", "trainer.checkpoint.local.directory=/scratch"])
    assert expected_save(config, SHAKTI, 512).under_way == 2
    assert expected_save(local, SHAKTI, 512).under_way == 1
    for free_gb, under_way in ((2, 2), (1, 1)):
        health = replace(SHAKTI.launch.health, memory_gb=free_gb)
        cluster = replace(SHAKTI, launch=replace(SHAKTI.launch, health=health))
        assert expected_save(config, cluster, 512).under_way == under_way
