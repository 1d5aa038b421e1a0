"""Every shipped YAML composes, and every described model can be built."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes.config.data_schema import SourceConfig
from recipes.config.hydra_app import CONF_DIR, compose
from recipes.config.megatron_fields import TRANSFORMER_CONFIG_FIELDS
from recipes.config.validate import validate_pretrain
from recipes.config.validate_model import validate_model
from recipes.errors import UserError
from recipes.families.model_config import padded_vocab_size
from recipes.plan.accounting import count_parameters, parameters_per_part
from tests.support.corpus import TinyData

MINIMAL = ["name=x", "data.seq_length=32", "trainer.max_steps=1", "dry_run=true"]
JOB_OF_GROUP = {"eval": "evaluate"}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))


GROUPS = sorted(path.name for path in CONF_DIR.iterdir() if path.is_dir() and path.name != "cluster")
PRETRAIN_OPTIONS = [
    (group, o) for group in GROUPS if group not in ("eval", "experiment", "data") for o in options(group)
]


def planned_for(config: Any) -> Any:
    """For as many processes as the layout needs."""
    parallel = config.parallel
    size = parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size
    return replace(config, dry_run=True, parallel=replace(parallel, world_size=parallel.world_size or size))


def test_groups_are_the_designed_ones() -> None:
    assert {"model", "optim", "parallel", "trainer", "experiment", "eval"} <= set(GROUPS)


@pytest.mark.parametrize(("group", "option"), PRETRAIN_OPTIONS)
def test_option_composes(group: str, option: str) -> None:
    # Muon's preset has a learning rate for the head, which the tied tiny model has not.
    untied = ["model.share_embeddings_and_output_weights=false"] if group == "optim" else []
    validate_pretrain(planned_for(compose("pretrain", [*MINIMAL, f"{group}={option}", *untied])))


@pytest.mark.parametrize("experiment", options("experiment"))
def test_experiment_composes(experiment: str) -> None:
    config = compose("pretrain", [f"experiment={experiment}"])
    assert config.name == experiment
    assert config.data.train and config.data.valid and config.tokenizer.model
    for path in (*(source.path for source in config.data.train.values()), *config.data.valid.values()):
        assert "${" not in path
    validate_pretrain(planned_for(config))


def test_published_seed_and_checkpoints() -> None:
    """Hindi Gemma 3 was trained with seed 42, here each phase has another order; Lumen's best was kept."""
    phases = ("phase1", "phase2a", "phase2b", "phase3")
    gemma = [compose("pretrain", [f"experiment=gemma3_hindi_270m_{phase}"]) for phase in phases]
    assert [config.seed for config in gemma] == [42, 42, 43, 44]
    assert compose("pretrain", ["experiment=lumen_128m"]).trainer.checkpoint.keep_best == 1


@pytest.mark.parametrize("option", options("eval"))
def test_eval_composes(option: str) -> None:
    config = compose("evaluate", ["gpt_model_file=x", f"eval={option}"])
    assert config.tasks
    assert {row.task for row in config.rows} <= set(config.tasks)
    assert all(len(row.published) == len(config.columns) for row in config.rows)


@pytest.mark.parametrize("model", options("model"))
def test_model_builds(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its real size, on a device that stores nothing: the built module has the counted parameters."""
    from tests.support.engine import ParallelConfig, build_gpt_model, process_groups, torch

    described = compose("pretrain", [*MINIMAL, f"model={model}"]).model
    validate_model(described)
    with process_groups(), torch.device("meta"):
        monkeypatch.setattr(torch.cuda, "current_device", lambda: torch.device("meta"))
        gpt = build_gpt_model(described, ParallelConfig(), torch.bfloat16)
    assert sum(parameter.nbytes for parameter in gpt.parameters() if not parameter.is_meta) < 20e6
    padding = padded_vocab_size(described) - described.vocab_size
    widths = [p.shape[1] for p in gpt.parameters() if p.shape[0] == padded_vocab_size(described)]
    built = sum(p.numel() for p in gpt.parameters()) - padding * sum(widths)
    assert built == count_parameters(described).total
    assert built == sum(parameters_per_part(described).values())


def test_megatron_fields_are_the_installed_ones() -> None:
    from tests.support.engine import torch

    assert torch is not None
    from megatron.core.transformer import TransformerConfig

    assert {field.name for field in dataclasses.fields(TransformerConfig)} == TRANSFORMER_CONFIG_FIELDS


def test_sources_on_the_command_line() -> None:
    config = compose("pretrain", [*MINIMAL, "data.train={en:{path:a/en,weight:0.75},hi:{path:a/hi}}"])
    assert config.data.train == {"en": SourceConfig("a/en", 0.75), "hi": SourceConfig("a/hi", 1.0)}
    config = compose(
        "pretrain", ["experiment=quickstart", "data.train.en.weight=3", "data.train={de:{path:a/de}}"]
    )
    assert config.data.train["en"].weight == 3.0
    assert config.data.train["en"].path.endswith("train_en")
    assert config.data.train["de"] == SourceConfig("a/de", 1.0)
    config = compose("pretrain", ["experiment=quickstart", "~data.train.hi"])
    assert list(config.data.train) == ["en"]
    with pytest.raises(UserError, match=r"data\.train\.en\.path has no value"):
        compose("pretrain", [*MINIMAL, "data.train={en:{weight:1}}"])


def test_pass_through_fields_on_the_command_line() -> None:
    config = compose("pretrain", [*MINIMAL, "+model.megatron.fp32_residual_connection=true"])
    assert config.model.megatron == {"fp32_residual_connection": True}


def test_configurations_are_frozen() -> None:
    config = compose("pretrain", MINIMAL)
    for part, name in (
        (config, "seed"),
        (config.model, "num_layers"),
        (config.trainer.checkpoint, "keep_last"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, 1)


def test_repeated_composition_does_not_leak(tiny_data: TinyData, tmp_path: Path) -> None:
    plain = compose("pretrain", MINIMAL)
    changed = compose(
        "pretrain",
        [
            *tiny_data.overrides(),
            "model.num_layers=7",
            "parallel=tp2_pp2",
            "+model.megatron.fp32_residual_connection=true",
        ],
    )
    assert changed.model.num_layers == 7
    assert compose("pretrain", MINIMAL) == plain
    assert len(compose("evaluate", ["gpt_model_file=x", "eval=param1_table"]).rows) == 15
    assert compose("evaluate", ["gpt_model_file=x", "eval=minibench"]).rows == []
    assert compose("evaluate", ["gpt_model_file=x"]).rows == []
    with pytest.raises(Exception, match="no_such"):
        compose("pretrain", [*MINIMAL, "no_such=1"])
    assert compose("pretrain", MINIMAL) == plain
