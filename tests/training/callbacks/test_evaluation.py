"""A benchmark while training: the stored model's scores, under every layout, and the training unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recipes.config.hydra_app import compose
from recipes.config.validate import validate_pretrain
from recipes.errors import UserError
from recipes.report import write_report
from recipes.report.evaluation_result import read_results
from tests.support.cases import evaluate_case
from tests.support.corpus import TinyData
from tests.support.layouts import LAYOUTS
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case, signalled_while_evaluating_case
from tests.support.spy import ENGINE, spy
from tests.support.tiny_text_model import FIXTURE


def minibench(data: TinyData) -> list[str]:
    return [
        "trainer.evaluation.every_n_steps=2",
        "trainer.evaluation.table=minibench",
        f"trainer.evaluation.minibench={data.directory / 'corpus' / 'benchmark'}",
        "trainer.evaluation.limit=20",
        "trainer.evaluation.max_batch_tokens=256",
    ]


MIRRORED = [
    "trainer.evaluation.every_n_steps=3",
    "trainer.evaluation.tasks=[arc_easy,triviaqa,truthfulqa_mc2]",
    f"trainer.evaluation.mirror={FIXTURE}",
    "model.max_position_embeddings=512",
]


def run(
    pool: GlooPool, data: TinyData, output_dir: Path, *settings: str, layout: str = "", **changes: str
) -> Outcome:
    size, parallel = LAYOUTS[layout] if layout else (1, [])
    base = data.overrides(
        output_dir=str(output_dir),
        **{"save_nemo": "false", "trainer__max_steps": "5", **changes},  # type: ignore[arg-type]
    )
    outcomes = pool.run(size, run_case, [*base, *parallel, *settings])
    assert [outcome.code for outcome in outcomes] == [0] * size, outcomes[0].message
    first: Outcome = outcomes[0]
    return first


def scores(outcome: Outcome) -> dict[int, dict[str, Any]]:
    return {
        record["step"]: {key: value for key, value in record.items() if key.startswith("eval.")}
        for record in outcome.metrics
        if any(key.startswith("eval.") for key in record)
    }


def test_scores_are_the_stored_model_s_and_losses_are_the_same(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    dropout = "model.hidden_dropout=0.1"
    outcome = run(gloo_pool, tiny_data, tmp_path / "a", dropout, *minibench(tiny_data), save_nemo="true")
    assert list(scores(outcome)) == [2, 4, 5]
    settings = [
        f"gpt_model_file={tmp_path / 'a' / 'tiny' / 'model.nemo'}",
        "eval=minibench",
        f"minibench={tiny_data.directory / 'corpus' / 'benchmark'}",
        "limit=20",
        "num_threads=1",
        f"output={tmp_path / 'stored.json'}",
    ]
    assert gloo_pool.run(1, evaluate_case, settings) == [0]
    stored = read_results(tmp_path / "stored.json").tasks
    assert scores(outcome)[5] == {
        f"eval.{task}.{metric}": stored[task].scores[f"{metric},none"].value
        for task in ("minibench_en", "minibench_hi")
        for metric in ("acc", "acc_norm")
    }
    (line,) = [line for line in outcome.stdout.splitlines() if line.startswith("eval ")][:1]
    assert "minibench_hi acc 0." in line and " acc_norm 0." in line and "%|" not in outcome.stderr
    without = run(gloo_pool, tiny_data, tmp_path / "b", dropout)
    assert without.losses == outcome.losses
    page = write_report(tmp_path / "a" / "tiny").read_text()
    assert "minibench_hi" in page and "Against training tokens." in page
    assert f"acc_norm: {scores(outcome)[2]['eval.minibench_hi.acc_norm']:.2g} after 512 tokens" in page
    assert "minibench_hi" not in write_report(tmp_path / "b" / "tiny").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        "dp2",
        "tp2_sp",
        "pp2",
        "tp2",
        "dp2_overlapped",
        "tp2_pp2",
    ],
)
def test_every_layout_scores_the_same_and_trains_the_same(
    layout: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    alone = run(gloo_pool, tiny_data, tmp_path / "alone", *MIRRORED)
    divided = run(gloo_pool, tiny_data, tmp_path / layout, *MIRRORED, layout=layout)
    assert list(scores(alone)) == list(scores(divided)) == [3, 5]
    for step, expected in scores(alone).items():
        assert len(expected) >= 4
        assert scores(divided)[step] == pytest.approx(expected, abs=1e-4)
    without = run(
        gloo_pool,
        tiny_data,
        tmp_path / "without",
        "model.max_position_embeddings=512",
        layout=layout,
    )
    assert without.losses == divided.losses


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(["model=tiny_nano_hindi", "optim=muon"], id="nano_hindi", marks=pytest.mark.slow),
        pytest.param(["model=tiny_param_moe", "model.hidden_dropout=0.1"], id="moe", marks=pytest.mark.slow),
        pytest.param(["model=tiny_param2_moe"], id="expert_bias", marks=pytest.mark.slow),
    ],
)
def test_other_families_draw_the_same_random_numbers(
    family: list[str], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    outcome = run(gloo_pool, tiny_data, tmp_path / "with", *family, *minibench(tiny_data))
    assert run(gloo_pool, tiny_data, tmp_path / "without", *family).losses == outcome.losses
    assert len(scores(outcome)) == 3


@pytest.mark.slow
def test_experts_on_several_ranks(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """Their forward passes need all ranks."""
    family = ["model=tiny_param_moe", "parallel.expert_model_parallel_size=2"]
    found = run(gloo_pool, tiny_data, tmp_path / "with", *family, *minibench(tiny_data), layout="dp2")
    without = run(gloo_pool, tiny_data, tmp_path / "without", *family, layout="dp2")
    assert without.losses == found.losses and len(scores(found)) == 3


def test_texts_are_measured_by_validation(tiny_data: TinyData, tmp_path: Path) -> None:
    settings = ["trainer.evaluation.every_n_steps=2", "trainer.evaluation.tasks=[bits_per_byte_hi]"]
    outcome = run_case([*tiny_data.overrides(output_dir=str(tmp_path), dry_run="true"), *settings])
    assert (outcome.code, outcome.message.partition(":")[0]) == (2, "trainer.evaluation.tasks")


def test_what_cannot_be_answered_is_refused_on_every_rank_before_the_first_step(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Answers of up to 64 tokens, and the model reads no more."""
    (tmp_path / "questions.jsonl").write_text('{"question": "Why?", "answer": "So."}\n')
    (tmp_path / "long.yaml").write_text(
        f"""
task: long
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/questions.jsonl}}}}
output_type: generate_until
test_split: test
doc_to_text: question
doc_to_target: answer
generation_kwargs: {{until: ["."], max_gen_toks: 64}}
metric_list: [{{metric: exact_match}}]
"""
    )
    evaluation = ["every_n_steps=2", "tasks=[long]", f"task_path=[{tmp_path}]"]
    settings = [f"trainer.evaluation.{setting}" for setting in evaluation]
    outcomes = gloo_pool.run(2, run_case, [*tiny_data.overrides(output_dir=str(tmp_path)), *settings])
    assert [outcome.code for outcome in outcomes] == [2, 2]
    assert {outcome.message for outcome in outcomes} == {outcomes[0].message}
    assert outcomes[0].message.startswith("long: a task generates up to 64 tokens")
    assert not outcomes[0].losses


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["limit=3"], r"^trainer\.evaluation\.limit=3: would be ignored"),
        (["every_n_steps=0", "table=smoke"], r"^trainer\.evaluation\.every_n_steps=0: must be positive"),
        (["every_n_steps=1"], r"^trainer\.evaluation\.tasks=\[\]: nothing to evaluate"),
        (["every_n_steps=1", "table=smok"], r"^trainer\.evaluation\.table=smok: .*did you mean smoke"),
        (["every_n_steps=1", "table=minibench"], r"^trainer\.evaluation\.minibench=null: name"),
        (["every_n_steps=1", "table=bits_per_byte"], r"^trainer\.evaluation\.tasks=\[\]: nothing"),
        (["every_n_steps=1", "tasks=[boolq]", "mirror=nowhere"], r"mirror=nowhere: no such directory"),
    ],
)
def test_settings_that_make_no_sense(settings: list[str], message: str, tiny_data: TinyData) -> None:
    overrides = [*tiny_data.overrides(), *(f"trainer.evaluation.{setting}" for setting in settings)]
    with pytest.raises(UserError, match=message):
        validate_pretrain(compose("pretrain", overrides))


@pytest.mark.parametrize("dry_run", ["true", "false"])
def test_missing_data_is_refused_before_anything_heavy(
    dry_run: str, tiny_data: TinyData, tmp_path: Path
) -> None:
    overrides = tiny_data.overrides(output_dir=str(tmp_path), dry_run=dry_run)
    evaluation = ["every_n_steps=2", "tasks=[winogrande]", f"mirror={FIXTURE}"]
    (run,) = spy(["recipes.pretrain", *overrides, *(f"trainer.evaluation.{each}" for each in evaluation)])
    assert run.code == 2 and not run.imported & ENGINE
    assert run.err.startswith("error: cannot load task winogrande from the mirror")
    assert "--tasks winogrande" in run.err and not (tmp_path / "tiny" / "config.yaml").exists()


@pytest.mark.parametrize(
    "layout",
    [pytest.param("", marks=pytest.mark.slow), "dp2", pytest.param("tp2_pp2", marks=pytest.mark.slow)],
)
def test_a_signal_ends_it_and_the_run_goes_on_later(
    layout: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Of all ranks only the last is told, and it is not the one that runs lm-eval."""
    size, parallel = LAYOUTS[layout] if layout else (1, [])
    base = tiny_data.overrides(output_dir=str(tmp_path), save_nemo="false", trainer__max_steps="5")
    settings = [*base, *parallel, *minibench(tiny_data)]
    stopped = gloo_pool.run(size, signalled_while_evaluating_case, settings, size - 1)
    assert [outcome.code for outcome in stopped] == [3] * size, stopped[0].message
    assert list(stopped[0].losses) == [1, 2] and scores(stopped[0]) == {}
    outcome = gloo_pool.run(size, run_case, settings)[0]
    assert {"event": "resumed", "step": 2, "checkpoint": "step_00000002"} in outcome.metrics
    assert list(outcome.losses) == [1, 2, 3, 4, 5] and list(scores(outcome)) == [4, 5]
