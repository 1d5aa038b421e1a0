"""Every shipped YAML composes."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes.config.data_schema import SourceConfig
from recipes.config.hydra_app import compose
from recipes.config.jobs import CONF_DIR
from recipes.config.validate import validate_pretrain
from recipes.data.tokenizer.vocabulary import with_vocab_size
from recipes.errors import UserError
from recipes.families.model_config import AUTO
from tests.support.configs import changed, options
from tests.support.corpus import TinyData

MINIMAL = ["name=x", "data.seq_length=32", "trainer.max_steps=1", "dry_run=true"]


GROUPS = sorted(path.name for path in CONF_DIR.iterdir() if path.is_dir() and path.name != "cluster")
PRETRAIN_OPTIONS = [
    (group, o) for group in GROUPS if group not in ("eval", "experiment", "data") for o in options(group)
]


def planned_for(config: Any) -> Any:
    """For as many processes as the layout needs."""
    parallel = config.parallel
    size = parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size
    return replace(config, dry_run=True, parallel=replace(parallel, world_size=parallel.world_size or size))


@pytest.mark.parametrize(("group", "option"), PRETRAIN_OPTIONS)
def test_option_composes(group: str, option: str) -> None:
    # Muon's preset has a learning rate for the head, which the tied tiny model has not.
    untied = ["model.share_embeddings_and_output_weights=false"] if group == "optim" else []
    validate_pretrain(planned_for(compose("pretrain", [*MINIMAL, f"{group}={option}", *untied])))


@pytest.mark.parametrize("experiment", options("experiment"))
def test_experiment_composes(experiment: str, tiny_data: TinyData) -> None:
    config = compose("pretrain", [f"experiment={experiment}"])
    assert config.name == experiment
    assert config.data.train and config.data.valid and config.tokenizer.model
    for path in (*(source.path for source in config.data.train.values()), *config.data.valid.values()):
        assert "${" not in path
    if config.model.vocab_size == AUTO:
        config = with_vocab_size(changed(config, tokenizer__model=str(tiny_data.tokenizer)))
    validate_pretrain(planned_for(config))


@pytest.mark.parametrize("option", options("eval"))
def test_eval_composes(option: str) -> None:
    config = compose("evaluate", ["gpt_model_file=x", f"eval={option}"])
    assert config.tasks or option == "bits_per_byte"
    assert {row.task for row in config.rows} <= set(config.tasks)
    assert all(len(row.published) == len(config.columns) for row in config.rows)


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
