"""A planned run's page: what its curves say, and that nothing in a description can break it."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.config.data_schema import SourceConfig
from recipes.config.described_run import described
from recipes.config.phase_schema import PhaseConfig, ShareConfig
from recipes.config.schema import OptimConfig, PlanConfig, PretrainConfig
from recipes.config.validate import validate_plan
from recipes.plan.dry_run_page import batches, blend, rates, write_dry_run_page
from tests.support.configs import changed, config_of_run, refusal
from tests.support.html_page import HOSTILE, Page


def phased() -> PretrainConfig:
    """300 steps of 1,000 tokens, then 100 of 3,000: the border is in the middle of the tokens."""
    second = PhaseConfig(name=HOSTILE, global_batch_size=30, lr=2e-3)
    second.train = {"en": ShareConfig(), "hi": ShareConfig(weight=3.0)}
    phases = [PhaseConfig(until_step=300, train={"en": ShareConfig()}), second]
    config = config_of_run(OptimConfig(lr=1e-3, lr_decay_style="constant"), 400, phases)
    config = changed(config, data__train={name: SourceConfig(name) for name in ("en", "hi")})
    assert isinstance(config, PretrainConfig)
    return config


def test_phases() -> None:
    charts = rates(phased()), batches(phased()), blend(phased())
    for chart in charts:
        assert chart is not None
        (border,) = chart.marks
        assert border.x == 50 and border.label == f"phase {HOSTILE} from step 301" and border.css == "phase"
    rate, sizes, shares = charts
    assert rate is not None and sizes is not None and shares is not None
    places = [place.split() for place in rate.paths[0].d.removeprefix("M").split("L")]
    assert {height for x, height in places if float(x) < 500} == {"500"}
    assert {height for x, height in places if float(x) > 500} == {"0"} and places[-1][0] == "1000"
    assert sizes.paths[0].d == "M0 666.7L500 666.7L500 0L1000 0"
    assert [key.label for key in shares.keys] == ["en", "hi"]
    assert [path.d for path in shares.paths] == [
        "M0 0L500 0L500 750L1000 750",
        "M0 1000L500 1000L500 250L1000 250",
    ]


@pytest.mark.parametrize("total", [0, 1, 2, 10**7])
def test_every_length_of_run(total: int, tmp_path: Path) -> None:
    for style in ("cosine", "constant", "WSD", "inverse-square-root"):
        config = config_of_run(OptimConfig(lr=1e-3, lr_decay_style=style), total)
        assert batches(config) is None and blend(config) is None
        page = Page(write_dry_run_page(config, "words\n  and 1,000", tmp_path / "page.html"))
        assert "Learning rate" in page.text and "Blend" not in page.text and "words\n  and 1,000" in page.text


def test_a_hostile_description(tmp_path: Path) -> None:
    config = changed(phased(), name=HOSTILE)
    page = Page(write_dry_run_page(config, HOSTILE, tmp_path / "page.html"))
    # Title and heading, the text, and the border in three charts.
    page.check_hostile(2 + 1 + 3)


def test_only_a_dry_run_writes_it() -> None:
    settings = ["experiment=quickstart", "cluster=local", "plan.page=page.html"]
    assert refusal(settings, described).startswith("plan.page=page.html: would be ignored: recipes.pretrain")
    plan = PlanConfig(page="page.html")
    assert (
        refusal(plan, lambda plan: validate_plan(plan, dry_run=False))
        == "plan.page=page.html: would be ignored: set dry_run=true too"
    )
