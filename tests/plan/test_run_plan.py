"""Plans of whole runs on clusters."""

from __future__ import annotations

import re

import pytest

from recipes.config.cluster_schema import ClusterConfig
from recipes.config.described_run import described
from recipes.config.hydra_app import compose
from recipes.config.schema import PretrainConfig
from recipes.errors import UserError
from recipes.plan.memory import run_memory
from recipes.plan.plan_rows import plan_data, plan_text
from recipes.plan.run_plan import RunPlan, plan_run


def plan(*overrides: str, cluster: tuple[str, ...] = ("cluster=shakti_512xh100",)) -> RunPlan:
    config: PretrainConfig = compose("pretrain", ["experiment=param1_2p9b", *overrides])
    machines: ClusterConfig = compose("cluster", list(cluster)).cluster
    return plan_run(config, machines)


def test_param1_on_512_h100() -> None:
    found = plan()
    assert (found.gpus, found.data_parallel_size, found.micro_batches) == (512, 512, 1)
    assert found.config.parallel.world_size == 512 and found.fits
    # ZeRO-1: 12 bytes a parameter over 512 ranks, 2 of weights and 4 of gradients on each.
    parameters = 2_860_648_448
    assert found.memory["weights"] == 2 * parameters and found.memory["gradients"] == 4 * parameters
    assert found.memory["main weights"] + found.memory["optimizer"] == pytest.approx(12 * parameters / 512)
    # Between the 40 % that dry_run assumes and the 57 % of one H200 without communication.
    assert 0.42 < found.step.mfu < 0.55
    tokens = 7_500_002_754_560
    assert found.steps * 2048 * 2048 == tokens
    assert found.hours == pytest.approx(tokens / (512 * found.step.tokens_per_second) / 3600)
    assert found.gpu_hours == pytest.approx(512 * found.hours)
    # 512 GPUs of 700 W, 64 nodes of 4,600 W besides, 1.3 times as much for the building.
    assert found.energy_kwh == pytest.approx((512 * 700 + 64 * 4600) * 1.3 * found.hours / 1000)
    assert found.price is None


def test_prices_and_unknown_power() -> None:
    changes = ("cluster.hardware.price_per_gpu_hour=2.5", "cluster.hardware.gpu_power_w=null")
    found = plan(cluster=("cluster=shakti_512xh100", *changes))
    assert found.price == pytest.approx(2.5 * found.gpu_hours) and found.energy_kwh is None
    assert "price" in plan_text(found) and "energy" not in plan_text(found)


def test_memory_is_that_of_dry_run_and_what_torch_cannot_use() -> None:
    found = plan()
    parts = dict(found.memory)
    wasted = parts.pop("fragmentation")
    assert parts == run_memory(found.config, 512, on_cuda=True)
    assert wasted == pytest.approx(0.05 * (parts["activations"] + parts["logits and loss"]), abs=1)


def test_what_does_not_fit_is_said() -> None:
    found = plan("trainer.micro_batch_size=2", cluster=("cluster=one_rtx4090",))
    assert not found.fits and "DOES NOT FIT" in plan_text(found)
    assert plan_data(found)["fits"] is False
    assert "sent per GPU, step" in plan_text(found) and found.step.traffic == ()


def test_text_and_data_agree() -> None:
    found = plan("parallel.pipeline_model_parallel_size=4", "parallel.tensor_model_parallel_size=2",
                 "parallel.sequence_parallel=true")  # fmt: skip
    text, data = plan_text(found), plan_data(found)
    assert f"{1e3 * data['step_s']:,.1f} ms" in text
    assert f"{data['tokens_per_second_per_gpu']:,.0f} tokens/s per GPU" in text
    assert f"{data['gpu_hours']:,.0f}" in text
    for part in (
        "pipeline bubble",
        "interleaved by 2",
        "tensor parallel",
        "data parallel",
        "key-value cache",
    ):
        assert part in text
    seconds = ("kernels_s", "recomputation_s", "communication_s", "bubble_s", "optimizer_s")
    assert sum(data[key] for key in seconds) == pytest.approx(data["step_s"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.precision=fp32"], r"trainer\.precision=fp32: plans are for bf16"),
        (["trainer.micro_batch_size=8"], r"trainer\.global_batch_size=2,048: must be a multiple"),
        (["parallel.tensor_model_parallel_size=3"], "does not divide"),
    ],
)
def test_runs_that_the_trainer_refuses(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(*overrides)


def test_figures_of_a_tiny_run_have_units_that_fit() -> None:
    tiny = ("experiment=quickstart", "cluster=one_h200")
    text = plan_text(plan_run(*described(list(tiny))))
    for line in text.splitlines():
        shown = re.search(r"(?<![\d.])0\.0+ (?:GiB|GB|min|s|ms|kWh|Wh)\b", line)
        assert shown is None, line
    assert "launching" in text and "--measure" in text
    assert "launching" not in plan_text(plan())


def test_a_year_has_no_thousand_days() -> None:
    long = plan_text(plan_run(*described(["experiment=param1_5b", "cluster=one_h200"])))
    assert re.search(r"^time +\d+\.\d years$", long, re.M) and re.search(r"^step +\d+\.\d min$", long, re.M)


def test_a_run_in_phases_takes_the_time_of_its_steps_of_every_size() -> None:
    small, large = (plan(f"trainer.global_batch_size={batch}", "phases=[]") for batch in (2048, 8192))
    found = plan(
        "trainer.max_steps=1000",
        "trainer.max_tokens=null",
        "phases=[{until_step:400,global_batch_size:2048},{global_batch_size:8192}]",
    )
    assert (found.steps, found.tokens) == (1000, (400 * 2048 + 600 * 8192) * 2048)
    assert found.seconds == pytest.approx(400 * small.step.seconds + 600 * large.step.seconds)
    # What is shown of a step is said of those that most tokens are read by.
    assert found.step == large.step and found.config.trainer.global_batch_size == 8192
