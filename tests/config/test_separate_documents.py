"""data.reset_attention_mask is refused where attention would not heed it."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest

from recipes.config.hydra_app import compose
from recipes.config.separate_documents import refuse_dropout_on_gpu
from recipes.config.validate import validate_pretrain
from recipes.errors import UserError
from tests.support.configs import refusal

RUN = ["experiment=quickstart", "data.reset_attention_mask=true"]


def test_context_parallelism() -> None:
    split = ["dry_run=true", "parallel.world_size=2", "parallel.context_parallel_size=2"]
    text = refusal(compose("pretrain", [*RUN, *split]))
    assert text == (
        "data.reset_attention_mask=True: parallel.context_parallel_size=2 splits every sequence; set it to 1"
    )


def test_transformer_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose("pretrain", RUN)
    validate_pretrain(config)
    find_spec = importlib.util.find_spec

    def installed(name: str, *rest: Any) -> Any:
        return SimpleNamespace() if name == "transformer_engine" else find_spec(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", installed)
    assert "Transformer Engine's attention is not told" in refusal(config)
    validate_pretrain(compose("pretrain", [*RUN, "dry_run=true"]))
    validate_pretrain(compose("pretrain", RUN[:1]))


def test_dropout_on_a_gpu() -> None:
    dropping = compose("pretrain", [*RUN, "model.attention_dropout=0.1"])
    with pytest.raises(UserError, match=r"set model\.attention_dropout=0"):
        refuse_dropout_on_gpu(dropping, on_gpu=True)
    refuse_dropout_on_gpu(dropping, on_gpu=False)
    refuse_dropout_on_gpu(compose("pretrain", RUN), on_gpu=True)
    refuse_dropout_on_gpu(compose("pretrain", [RUN[0], "model.attention_dropout=0.1"]), on_gpu=True)
