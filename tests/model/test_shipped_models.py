"""Every shipped model can be built, in its real size, and has the parameters that its table says."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from recipes.config.hydra_app import compose
from recipes.config.schema import ParallelConfig
from recipes.config.validate_model import validate_model
from recipes.families.family import tensor_table
from recipes.families.model_config import padded_vocab_size
from recipes.model.build import build_gpt_model
from recipes.optim.kinds import parameter_kind
from recipes.plan.accounting import count_parameters, parameters_per_part
from tests.support.configs import options
from tests.support.engine import process_groups

MINIMAL = ["name=x", "data.seq_length=32", "trainer.max_steps=1", "dry_run=true"]


@pytest.mark.parametrize("model", options("model"))
def test_model_builds(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that stores nothing: the built module has the counted parameters, of the table's kinds."""
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

    of_modules: Counter[str] = Counter()
    for name, parameter in gpt.named_parameters():
        of_modules[parameter_kind(name, parameter.shape)] += parameter.numel()
    of_table: Counter[str] = Counter()
    for spec in tensor_table(described):
        if spec.trained:
            of_table[parameter_kind(spec.name, spec.shape)] += spec.stored_numbers()
    assert of_modules == of_table
