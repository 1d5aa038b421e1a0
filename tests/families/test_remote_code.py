"""Families without a class in transformers leave with code of their own, which computes the same."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.engine import initialized, process_groups
from tests.support.huggingface_models import (
    CASES,
    export,
    loaded,
    module_cache,
    shaken,
    stored_in,
    tensors_of,
    tokens_for,
)
from tests.support.paths import ROOT


@pytest.fixture(scope="module", autouse=True)
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with process_groups(), module_cache(tmp_path_factory.mktemp("modules")):
        yield


@pytest.mark.parametrize("case", ["nano_hindi", "param_moe"])
def test_remote_code_generates(case: str, tmp_path: Path) -> None:
    """Greedily as the full forward says, also for a padded prompt; and it trains."""
    model = CASES[case]
    gpt = shaken(initialized(model)).eval()
    stored = stored_in(tmp_path / "ours", tensors_of(gpt))
    directory = export(tmp_path / "hf", model, stored, eos_id=2, pad_id=3)
    theirs = loaded(directory, model)
    prompt = tokens_for(model, 6)[:1]
    tokens = theirs.generate(prompt, max_new_tokens=8, do_sample=False, eos_token_id=None)
    positions = torch.arange(tokens.shape[1])[None]
    with torch.no_grad():
        choice = gpt(tokens, positions, None)[..., : model.vocab_size].argmax(-1)
    assert tokens.shape == (1, 14) and torch.equal(choice[:, 5:-1], tokens[:, 6:])
    padded = torch.cat((torch.full((1, 3), 3), prompt), dim=1)
    mask = torch.tensor([[0] * 3 + [1] * 6])
    again = theirs.generate(padded, attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=None)
    assert torch.equal(again[:, 3:], tokens)
    loss = theirs.train()(tokens, labels=tokens).loss
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in theirs.parameters())


@pytest.mark.parametrize(
    ("case", "wide"), [("nano_hindi", ("resid_lambda", "x0_lambda")), ("param_moe", ("gate.weight",))]
)
def test_remote_code_in_bfloat16(case: str, wide: tuple[str, ...], tmp_path: Path) -> None:
    """What decides by small differences stays as it was stored; logits are those of rounded weights."""
    model = CASES[case]
    gpt = shaken(initialized(model)).eval()
    tensors = {
        name: tensor if ".router." in name or "lambda" in name else tensor.bfloat16()
        for name, tensor in tensors_of(gpt).items()
    }
    theirs = loaded(export(tmp_path / "hf", model, stored_in(tmp_path / "ours", tensors)), model)
    types = {name: parameter.dtype for name, parameter in theirs.named_parameters()}
    assert {name for name, dtype in types.items() if dtype == torch.float32} == {
        name for name in types if name.endswith(wide) and "value_gate" not in name
    }
    with torch.no_grad():
        for name, tensor in tensors_of(gpt).items():
            tensor.copy_(tensors[name])
        tokens = tokens_for(model)
        exact = gpt(tokens, torch.arange(tokens.shape[1]).expand_as(tokens), None)[..., : model.vocab_size]
        found = theirs(tokens).logits.float()
    assert (found - exact).abs().mean() < 0.03 * exact.std()


def test_remote_code_stands_alone() -> None:
    for path in (ROOT / "recipes/families/remote_code").glob("[a-z]*_*.py"):
        tree = ast.parse(path.read_text())
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        plain = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
        modules |= {name.name for node in plain for name in node.names}
        roots = {module.split(".")[0] for module in modules}
        assert "transformers" in roots and not roots & {"recipes", "megatron", "nemo"}
