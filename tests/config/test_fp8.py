"""FP8 is refused where nothing can compute it, before torch is loaded where that can be known."""

from __future__ import annotations

import importlib.util

import pytest

from recipes.config import fp8
from recipes.config.hydra_app import compose
from recipes.config.validate import validate_pretrain
from recipes.errors import UserError

RUN = ["experiment=quickstart", "trainer.precision=fp8"]


def refused(*settings: str) -> str:
    with pytest.raises(UserError) as error:
        validate_pretrain(compose("pretrain", [*settings]))
    return str(error.value)


@pytest.mark.skipif(
    importlib.util.find_spec("transformer_engine") is not None, reason="Transformer Engine is installed"
)
def test_without_transformer_engine() -> None:
    line = "trainer.precision=fp8: needs Transformer Engine, which is not installed; set bf16"
    assert refused(*RUN) == line
    validate_pretrain(compose("pretrain", [*RUN, "dry_run=true"]))  # A plan for another machine.


def test_what_would_be_ignored_or_is_set_twice() -> None:
    assert "would be ignored: set trainer.precision=fp8" in refused(
        "experiment=quickstart", "trainer.fp8_recipe=mxfp8"
    )
    assert "trainer.precision=fp8 sets it" in refused(*RUN, "+model.megatron.fp8=e4m3")
    assert "trainer.fp8_recipe=delay" in refused(*RUN, "trainer.fp8_recipe=delay")


def test_devices() -> None:
    config = compose("pretrain", RUN)
    fp8.refuse_fp8_on("cuda:0", (9, 0), config)
    fp8.refuse_fp8_on("cuda:0", (8, 9), config)
    with pytest.raises(UserError, match=r"capability 8\.9 or more; cuda:0 has compute capability 8\.0"):
        fp8.refuse_fp8_on("cuda:0", (8, 0), config)
    with pytest.raises(UserError, match=r"cpu has no CUDA"):
        fp8.refuse_fp8_on("cpu", None, config)
    fp8.refuse_fp8_on("cpu", None, compose("pretrain", ["experiment=quickstart"]))


def test_megatron_core_gets_its_settings() -> None:
    config = compose("pretrain", [*RUN, "trainer.fp8_recipe=blockwise", "+model.megatron.qk_clip=false"])
    model = fp8.model_of(config)
    assert model.megatron == {"qk_clip": False, "fp8": "hybrid", "fp8_recipe": "blockwise"}
    # What is stored with a model says nothing of the precision that it was trained in.
    assert "fp8" not in config.model.megatron
