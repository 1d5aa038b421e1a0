"""The command line of tools.plan."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.spy import ENGINE, spy

RUN = ["experiment=param1_2p9b", "cluster=shakti_512xh100"]


def test_answers(tmp_path: Path) -> None:
    """Text, JSON, layouts and their page, without the engine."""
    page = tmp_path / "layouts.html"
    small = ["cluster.nodes=1", "trainer.global_batch_size=256"]
    plain, as_json, layouts, listed, failing = spy(
        ["tools.plan", *RUN],
        ["tools.plan", "--json", *RUN, "cluster.nodes=32"],
        ["tools.plan", *RUN, *small, "--search", "--top", "3", "--out", str(page)],
        ["tools.plan", *RUN, *small, "--search", "--json", "--top", "2"],
        [
            "tools.plan",
            *RUN,
            "--simulate-failures",
            "6h",
            "--save-time",
            "10s",
            "--recovery-time",
            "4m",
            "--json",
        ],
        preload="recipes.config.hydra_app",
    )
    for answer in (plain, as_json, layouts, listed, failing):
        assert answer.code == 0, answer.err
        assert not answer.imported & ENGINE
    assert "2,860,648,448" in plain.out and "64 x 8 h100" in plain.out and "MFU" in plain.out
    data = json.loads(as_json.out)
    assert data["gpus"] == data["data"] == 256 and data["parameters"] == 2_860_648_448
    lines = layouts.out.splitlines()
    assert lines[0].split()[:5] == ["TP", "PP", "CP", "EP", "DP"]
    assert lines[-1].startswith("fastest: parallel.tensor_model_parallel_size=")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    found = json.loads(listed.out)["layouts"]
    assert len(found) == 2 and found[0]["step_s"] <= found[1]["step_s"]
    failures = json.loads(failing.out)["failures"]
    assert (failures["mtbf_s"], failures["save_s"], failures["recovery_s"]) == (21_600, 10, 240)
    assert 0.9 < failures["best"]["goodput"] < 1


def test_a_cpu_is_measured_and_nothing_is_planned_for_it() -> None:
    model = ["model.vocab_size=512", "model.num_layers=1", "trainer.micro_batch_size=1"]
    cpu = ["cluster=local", "plan.device=cpu", "--measure"]
    (told,) = spy(["tools.plan", "experiment=quickstart", *model, *cpu])
    assert told.code == 0 and told.out == "" and "to use it  trainer.peak_tflops=" in told.err


def test_mistakes_are_one_line() -> None:
    mistakes = {
        ("experiment=param1_2p9b",): "error: no cluster: add cluster=NAME, one of cpu_nodes, docker, local, ",
        (*RUN, "cluster.node=3"): "error: cluster.node: there is no such key; did you mean cluster.nodes?\n",
        (*RUN, "cluster.nodes=0"): "error: cluster.nodes=0: must be positive\n",
        (*RUN, "cluster.nodes=7"): "error: trainer.global_batch_size=2,048: must be a multiple",
        (
            "experiment=param1_2p9b",
            "cluster=shakti",
        ): "error: cluster=shakti: there is no such option; choose one of",
        (*RUN, "--out", "x.html"): "error: --out=x.html: would be ignored",
        (*RUN, "--save-time", "5s"): "error: --save-time=5s: would be ignored",
        (*RUN, "--simulate-failures", "6"): "error: 6: write a time as",
        (*RUN, "--simulate-failures", "6h", "--search"): "error: --search: does not go with",
        (
            "experiment=quickstart",
            "cluster=local",
        ): "error: cluster.hardware.gpu=unknown: plans are for GPUs: set it to one of h200, ",
        (
            "experiment=param2_17b_a2p4b",
            "cluster=one_h200",
        ): "error: parallel=tensor 1 x pipeline 1 x context 4: needs a multiple of 4 processes, there are 1; "
        "take as many",
        (*RUN, "--simulate-failures", "30s"): "error: mean time between failures=30 s: a save of 5 s and",
        (*RUN, "cluster.hardware.gpu=h1000"): "error: cluster.hardware.gpu=h1000: choose one of h200, h100",
    }
    answers = spy(*(["tools.plan", *arguments] for arguments in mistakes), preload="recipes.config.hydra_app")
    for answer, message in zip(answers, mistakes.values(), strict=True):
        assert answer.code == 2 and answer.err.startswith(message), answer.err
        assert answer.err.count("\n") == 1
