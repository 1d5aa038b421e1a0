"""The files that a run reads: looked at before it starts, refused in one line that names key and file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from recipes.config.data_schema import SourceConfig
from recipes.config.hydra_app import compose
from recipes.config.schema import PretrainConfig
from recipes.config.validate import validate_pretrain
from recipes.data.samples.inputs import check_inputs
from tests.support.configs import changed
from tests.support.configs import refusal as refusal_of
from tests.support.corpus import TinyData


@pytest.fixture(scope="module")
def real(tiny_data: TinyData) -> PretrainConfig:
    """A run that could start."""
    return compose("pretrain", tiny_data.overrides())


def checked(config: PretrainConfig) -> int:
    """All that is checked before a run starts."""
    data_parallel_size = validate_pretrain(config)
    check_inputs(config)
    return data_parallel_size


def refusal(config: PretrainConfig) -> str:
    return refusal_of(config, checked)


def test_a_run_that_could_start(real: PretrainConfig) -> None:
    assert checked(real) == 1


def copied(data: TinyData, name: str, directory: Path) -> str:
    for suffix in (".bin", ".idx", ".json"):
        shutil.copy(data.prefix(name) + suffix, directory / f"{name}{suffix}")
    return str(directory / name)


def test_missing_data(real: PretrainConfig) -> None:
    assert refusal(changed(real, data__train={})).startswith(
        "data.train={}: no training text; add sources, for example"
    )
    text = refusal(changed(real, data__train={"en": SourceConfig("nowhere/en")}))
    assert "nowhere/en.bin does not exist: give the prefix" in text
    assert "nowhere/hi.bin does not exist" in refusal(changed(real, data__valid={"hi": "nowhere/hi"}))


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_truncated_data(real: PretrainConfig, tiny_data: TinyData, tmp_path: Path, suffix: str) -> None:
    prefix = copied(tiny_data, "train_en", tmp_path)
    with Path(prefix + suffix).open("r+b") as file:
        file.truncate(Path(prefix + suffix).stat().st_size - 2)
    text = refusal(changed(real, data__train={"en": SourceConfig(prefix)}))
    assert f"train_en{suffix} is truncated" in text and "run tools.preprocess again" in text


def test_source_shorter_than_one_sample(real: PretrainConfig, tiny_data: TinyData) -> None:
    tokens = json.loads(Path(tiny_data.prefix("valid_en") + ".json").read_text())["tokens"]
    longer = changed(real, data__seq_length=tokens, model__max_position_embeddings=tokens)
    prefix = tiny_data.prefix("valid_en")
    assert refusal(changed(longer, data__train={"en": SourceConfig(prefix)}, data__valid={})) == (
        f"data.train.en={prefix}: holds {tokens:,} tokens, one sample needs {tokens + 1:,}; add text"
    )
    fits = changed(
        longer, data__seq_length=tokens - 1, data__train={"en": SourceConfig(prefix)}, data__valid={}
    )
    assert checked(fits) == 1


def test_source_of_weight_zero_is_not_looked_at(real: PretrainConfig) -> None:
    train = {**real.data.train, "gone": SourceConfig("nowhere/x", 0.0)}
    assert checked(changed(real, data__train=train)) == 1


def test_tokenizer(real: PretrainConfig, tiny_data: TinyData, tmp_path: Path) -> None:
    assert refusal(changed(real, tokenizer__model=None)).startswith(
        "tokenizer.model=null: name the tokenizer"
    )
    assert refusal(changed(real, tokenizer__model="no.model")).startswith(
        "tokenizer.model=no.model: no such file;"
    )
    text = refusal(changed(real, model__vocab_size=500))
    assert text.startswith(
        f"tokenizer.model={tiny_data.tokenizer}: has 800 pieces, more than model.vocab_size=500; "
    )
    assert text.endswith("set model.vocab_size=auto")
    assert checked(changed(real, model__vocab_size=800)) == 1
    broken = tmp_path / "broken.model"
    broken.write_bytes(b"not a model")
    assert str(broken) in refusal(changed(real, tokenizer__model=str(broken)))


def test_data_of_another_tokenizer(real: PretrainConfig, tiny_data: TinyData, tmp_path: Path) -> None:
    prefix = copied(tiny_data, "train_hi", tmp_path)
    sidecar = Path(prefix + ".json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "tokenizer_sha256": "0" * 64}))
    text = refusal(changed(real, data__valid={"hi": prefix}))
    assert text == (
        f"data.valid.hi={prefix}: was tokenized with another tokenizer "
        f"than tokenizer.model={tiny_data.tokenizer}"
    )


def test_a_name_on_the_hub_is_no_path(real: PretrainConfig) -> None:
    config = changed(real, tokenizer__model="meta-llama/Llama-3.2-1B")
    assert refusal_of(config, checked) == (
        "tokenizer.model=meta-llama/Llama-3.2-1B: no such file; download it first: "
        "hf download meta-llama/Llama-3.2-1B --local-dir Llama-3.2-1B"
    )
