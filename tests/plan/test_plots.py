"""What a run's plots show: the learning rate, and of phases the batches and the blend."""

from __future__ import annotations

import pytest

from recipes.config.data_schema import SourceConfig
from recipes.config.phase_schema import PhaseConfig, ShareConfig
from recipes.config.schema import OptimConfig
from recipes.plan.plots import BATCH_HEIGHT, HEIGHT, WIDTH, draw_plots
from tests.support.configs import changed, config_of_run


def test_curve() -> None:
    optim = OptimConfig(lr=3e-4, lr_warmup_steps=100, lr_decay_style="linear")
    title, *plot, axis, steps, tokens = draw_plots(config_of_run(optim, 1000)).splitlines()
    assert title == "learning rate" and len(plot) == HEIGHT and plot[0].startswith(" 3.00e-04 |")
    bars = [line.split("|")[1].ljust(WIDTH) for line in plot]
    heights = [sum(row[column] == "*" for row in bars) for column in range(WIDTH)]
    peak = WIDTH * 100 // 1000
    assert heights[:peak] == sorted(heights[:peak]) and heights[0] < 3
    assert heights[peak] == HEIGHT
    assert heights[peak:] == sorted(heights[peak:], reverse=True) and heights[-1] == 0
    for column in range(peak + 1, WIDTH):
        assert heights[column] == pytest.approx(HEIGHT * (WIDTH - column) / (WIDTH - peak), abs=1)
    assert axis.endswith("-" * WIDTH)
    assert steps.split() == ["step", "0", "1,000"] and tokens.split() == ["tokens", "0", "1,000,000"]


@pytest.mark.parametrize("total", [0, 1, 2, 59, 10**7])
def test_every_length_of_run_has_a_curve(total: int) -> None:
    for style in ("cosine", "constant", "WSD", "inverse-square-root"):
        text = draw_plots(config_of_run(OptimConfig(lr=1e-3, lr_decay_style=style), total))
        assert max(len(line) for line in text.splitlines()) <= 75
        assert text.count("\n") == HEIGHT + 3 and "*" in text


def test_phases_over_tokens() -> None:
    """300 steps of 1,000 tokens, then 100 of 3,000: the border is in the middle."""
    second = PhaseConfig(global_batch_size=30, lr=2e-3)
    second.train = {"en": ShareConfig(), "hi": ShareConfig(weight=3.0)}
    phases = [PhaseConfig(until_step=300, train={"en": ShareConfig()}), second]
    config = config_of_run(OptimConfig(lr=1e-3, lr_decay_style="constant"), 400, phases)
    config = changed(config, data__train={name: SourceConfig(name) for name in ("en", "hi")})
    rate, batches, blend = draw_plots(config).split("\n\n")

    def drawn(plot: str) -> list[str]:
        return [line.split("|", 1)[1].ljust(WIDTH) for line in plot.splitlines() if line[10:11] == "|"]

    def heights(plot: str) -> list[int]:
        """Before the border and behind it."""
        return [sum(row[column] == "*" for row in drawn(plot)) for column in (5, WIDTH // 2 + 2)]

    for plot in (rate, batches, blend):
        (axis,) = (line for line in plot.splitlines() if line[10:11] == "+")
        (border,) = (place for place, sign in enumerate(axis[11:]) if sign == "|")
        assert border in (WIDTH // 2 - 1, WIDTH // 2)
        assert plot.splitlines()[-1].split() == ["tokens", "0", "600,000"]
    assert heights(rate) == [HEIGHT // 2, HEIGHT]
    assert len(drawn(batches)) == BATCH_HEIGHT and heights(batches) == [2, BATCH_HEIGHT]
    assert batches.splitlines()[1].startswith("    3,000 |")
    assert blend.splitlines()[0] == "blend   # en   = hi" and len(drawn(blend)) == HEIGHT
    before, after = ("".join(row[column] for row in drawn(blend)) for column in (5, WIDTH // 2 + 2))
    assert before == "#" * 10 and (after.count("#"), after.lstrip("#")) == (2, "=" * 8)
