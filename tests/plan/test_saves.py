"""How long a planned checkpoint takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recipes.config.hydra_app import compose
from recipes.plan.saves import AGREED_S, expected_save

SIZE = 14 * 2_860_648_448


def test_ranks_write_together_until_the_file_system_takes_no_more() -> None:
    config = compose("pretrain", ["experiment=param1_2p9b"])
    hardware = compose("cluster", ["cluster=shakti_512xh100"]).cluster.hardware
    few, many = (expected_save(config, hardware, ranks) for ranks in (4, 512))
    assert few.written_after == pytest.approx(SIZE / 8e9)
    assert many.written_after == pytest.approx(SIZE / 20e9)
    faster = replace(hardware, storage_gb_per_s=100.0)
    assert expected_save(config, faster, 512).written_after == pytest.approx(SIZE / 100e9)
    assert few.held == many.held == AGREED_S


def test_a_save_that_is_waited_for_and_one_with_an_average() -> None:
    hardware = compose("cluster", ["cluster=shakti_512xh100"]).cluster.hardware
    waits = compose("pretrain", ["experiment=param1_2p9b", "trainer.checkpoint.async_save=false"])
    averaged = compose("pretrain", ["experiment=param1_2p9b", "trainer.ema.decay=0.99"])
    save = expected_save(waits, hardware, 512)
    assert (save.held, save.written_after) == (pytest.approx(AGREED_S + SIZE / 20e9), 0.0)
    assert expected_save(averaged, hardware, 512).written_after == pytest.approx(18 / 14 * SIZE / 20e9)
