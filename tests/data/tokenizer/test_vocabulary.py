"""model.vocab_size=auto: the tokenizer's size, a number from then on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from recipes.config.hydra_app import compose
from recipes.config.validate import validate_pretrain
from recipes.data.tokenizer import load_tokenizer
from recipes.data.tokenizer.vocabulary import with_vocab_size
from recipes.errors import UserError
from recipes.families.model_config import padded_vocab_size
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case
from tools.describe import describe


def test_the_tokenizers_size(tiny_data: TinyData) -> None:
    pieces = load_tokenizer(tiny_data.tokenizer).vocab_size
    config = compose("pretrain", tiny_data.overrides(model__vocab_size="auto"))
    assert config.model.vocab_size == "auto"
    model = with_vocab_size(config).model
    assert model.vocab_size == pieces
    assert padded_vocab_size(model) % model.make_vocab_size_divisible_by == 0
    given = compose("pretrain", tiny_data.overrides(model__vocab_size="4096"))
    assert with_vocab_size(given) is given
    overrides = ["model=tiny", "model.vocab_size=auto", f"tokenizer.model={tiny_data.tokenizer}"]
    assert describe(overrides)["padded_vocab_size"] == padded_vocab_size(model)


def test_refusals(tiny_data: TinyData) -> None:
    for tokenizer in ("null", "nowhere.model"):
        overrides = tiny_data.overrides(model__vocab_size="auto", tokenizer__model=tokenizer)
        with pytest.raises(UserError, match=r"model\.vocab_size=auto: asks tokenizer\.model="):
            with_vocab_size(compose("pretrain", overrides))
    many = with_vocab_size(compose("pretrain", tiny_data.overrides(model__vocab_size="many")))
    with pytest.raises(UserError, match=r"model\.vocab_size=many: write a number, or auto"):
        validate_pretrain(many)


def test_a_run_and_its_resume(tiny_data: TinyData, tmp_path: Path, gloo_pool: GlooPool) -> None:
    """config.yaml and checkpoints hold the number, so the run may also go on with the number."""
    settings = {"output_dir": str(tmp_path), "model__vocab_size": "auto", "save_nemo": "false"}
    first = gloo_pool.run(1, run_case, tiny_data.overrides(**settings | {"trainer__max_steps": "2"}))[0]
    assert first.code == 0 and first.stderr == ""
    pieces = load_tokenizer(tiny_data.tokenizer).vocab_size
    recorded = yaml.safe_load((tmp_path / "tiny" / "config.yaml").read_text(encoding="utf-8"))
    assert recorded["model"]["vocab_size"] == pieces
    for number, size in enumerate(("auto", str(pieces)), 3):
        more = settings | {"model__vocab_size": size, "trainer__max_steps": str(number)}
        outcome = gloo_pool.run(1, run_case, tiny_data.overrides(**more))[0]
        assert outcome.code == 0 and max(outcome.losses) == number
    other = settings | {"model__vocab_size": str(pieces + 128), "trainer__max_steps": "5"}
    assert "model.vocab_size" in gloo_pool.run(1, run_case, tiny_data.overrides(**other))[0].message
