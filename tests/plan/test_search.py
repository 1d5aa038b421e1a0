"""The search over layouts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recipes.config.hydra_app import compose
from recipes.config.validate import validate_pretrain
from recipes.errors import UserError
from recipes.plan.layouts_table import found_text, table_lines, write_layouts
from recipes.plan.run_plan import plan_run
from recipes.plan.search import Found, search, settings_of

MACHINES = ["cluster=shakti_512xh100", "cluster.nodes=2"]
RUN = ["experiment=param1_5b", "trainer.global_batch_size=64"]


@pytest.fixture(scope="module")
def found() -> Found:
    return search(compose("pretrain", RUN), compose("cluster", MACHINES).cluster)


def test_what_is_found_fits_and_is_accepted(found: Found) -> None:
    assert found.plans and found.refused
    seconds = [plan.step.seconds for plan in found.plans]
    assert seconds == sorted(seconds)
    layouts = set()
    for plan in found.plans:
        assert plan.fits
        assert validate_pretrain(plan.config) == plan.data_parallel_size
        layouts.add((plan.config.parallel, plan.config.trainer.micro_batch_size).__repr__())
    assert len(layouts) == len(found.plans)


def test_every_dimension_is_searched(found: Found) -> None:
    parallels = [plan.config.parallel for plan in found.plans]
    assert {each.tensor_model_parallel_size for each in parallels} == {1, 2, 4, 8}
    assert {each.pipeline_model_parallel_size for each in parallels} == {1, 2, 4, 8, 16}
    assert {each.context_parallel_size for each in parallels} >= {1, 2, 4}
    assert {each.recompute_granularity for each in parallels} == {None, "full"}
    assert {plan.config.trainer.micro_batch_size for plan in found.plans} >= {1, 2, 4}


def test_the_best_is_as_good_as_it_is_written(found: Found) -> None:
    """The settings that the search prints give the plan that it found."""
    best = found.plans[0]
    text = found_text(found, 3)
    settings = text.splitlines()[-1].removeprefix("fastest: ")
    assert settings == settings_of(
        best.config.parallel, best.config.trainer.micro_batch_size, best.config.model
    )
    again = plan_run(compose("pretrain", [*RUN, *settings.split()]), compose("cluster", MACHINES).cluster)
    assert again.step == best.step and again.memory == best.memory
    own = plan_run(compose("pretrain", [*RUN, "trainer.micro_batch_size=1"]), best.cluster)
    assert best.step.seconds <= own.step.seconds


def test_experts_are_spread() -> None:
    run = ["name=x", "model=tiny_param2_moe", "data.seq_length=64", "trainer.max_steps=1", "optim.lr=1e-3"]
    run.append("trainer.global_batch_size=16")
    plans = search(compose("pretrain", run), compose("cluster", MACHINES).cluster).plans
    assert {plan.config.parallel.expert_model_parallel_size for plan in plans} == {1, 2, 4, 8}
    spread = next(plan for plan in plans if plan.config.parallel.expert_model_parallel_size > 1)
    assert any(traffic.name == "expert parallel" for traffic in spread.step.traffic)
    assert "parallel.expert_tensor_parallel_size=1" in found_text(Found([spread], 0, 0), 1)


def test_memory_leaves_layouts_out() -> None:
    small = search(
        compose("pretrain", RUN), compose("cluster", [*MACHINES, "cluster.hardware.gpu=rtx4090"]).cluster
    )
    large = search(
        compose("pretrain", RUN), compose("cluster", [*MACHINES, "cluster.hardware.gpu=h200"]).cluster
    )
    assert small.too_large > large.too_large and len(small.plans) < len(large.plans)
    none = search(compose("pretrain", RUN), compose("cluster", ["cluster=one_rtx4090"]).cluster)
    assert not none.plans and found_text(none, 5).startswith("0 layouts fit, ")
    assert re.search(r"; the smallest needs [\d.]+ of 24\.0 GiB: take more GPUs", found_text(none, 5))


def test_the_runs_own_micro_batch_is_among_them_and_units_fit() -> None:
    small = ["experiment=quickstart", "trainer.global_batch_size=64", "trainer.micro_batch_size=64"]
    found = search(compose("pretrain", small), compose("cluster", ["cluster=one_h200"]).cluster)
    assert {plan.config.trainer.micro_batch_size for plan in found.plans} == {1, 2, 4, 8, 16, 64}
    header, first, *_ = table_lines(found.plans)
    assert header[8] == "step µs" and header[-1] == "ms"
    assert float(first[8].replace(",", "")) > 1 and float(first[-1].replace(",", "")) > 1


def test_a_run_that_is_refused_in_every_layout() -> None:
    with pytest.raises(UserError, match=r"model\.max_position_embeddings"):
        search(compose("pretrain", [*RUN, "data.seq_length=65536"]), compose("cluster", MACHINES).cluster)


def test_the_page(found: Found, tmp_path: Path) -> None:
    path = write_layouts(tmp_path / "layouts.html", found, 7, "python -m tools.plan <x>")
    text = path.read_text(encoding="utf-8")

    _, _, table = text.partition('class="figures"')
    assert table.count("<td") == 7 * len(table_lines(found.plans)[0]) and text.count("<path") >= 3
    assert "&lt;x&gt;" in text
    assert len(table_lines(found.plans[:7])) == 1 + 7
