"""tools.convert: every stored kind into every form, exactly, and nothing half-written."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from recipes.checkpoint.convert import Conversion, convert
from recipes.checkpoint.nemo.classic_config import OUR_TARGET
from recipes.checkpoint.open import open_stored_model
from recipes.errors import UserError
from recipes.inference.verify_conversion import BOUND, BOUND_NARROWED, Comparison, compare_logits
from tests.support.cases import nemo_logits
from tests.support.corpus import TinyData
from tests.support.forked import Forked, run_forked
from tests.support.nemo_files import FIXTURES
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case, wait_for_file
from tests.support.stored_forms import empty_model, local_state, unpacked

FAMILIES = {
    "gemma3": ["model=tiny_gemma3"],
    "nano_hindi": ["model=tiny_nano_hindi", "optim=muon"],
    "param_moe": ["model=tiny_param_moe"],
    "param2_moe": ["model=tiny_param2_moe"],
}
STORED = {
    "classic_te_torch_dist": "model.nemo",
    "classic_te_torch_dist_tp2": "model.nemo",
    "classic_te_torch_dist_bf16": "model.nemo",
    "classic_te_zarr": "model.nemo",
    "classic_local_single": "model.nemo",
    "nemo2_v200_te": "ckpt",
}


def contents(path: Path) -> dict[str, torch.Tensor]:
    with open_stored_model(path) as source:
        return {name: tensor.load() for name, tensor in source.tensors.items()}


def assert_same(first: Path, second: Path) -> None:
    """The same tensors in the same types, bit for bit."""
    ours, theirs = contents(first), contents(second)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("fixture", STORED)
def test_round_trip_is_bit_exact(fixture: str, tmp_path: Path) -> None:
    source = FIXTURES / fixture / STORED[fixture]
    for to in ("nemo", "nemo2", "torch_dist"):
        convert(source, tmp_path / to, to)
        assert_same(source, tmp_path / to)
    path = tmp_path / "nemo2"
    for number, to in enumerate(("hf", "nemo", "hf")):
        convert(path, tmp_path / f"{number}_{to}", to)
        path = tmp_path / f"{number}_{to}"
    first, last = contents(source), contents(path)
    with open_stored_model(source) as opened:
        words = opened.model.vocab_size
    for name, tensor in first.items():
        # Padded rows stay behind in Hugging Face's form and come back as zeros.
        rows = words if name in ("embedding.word_embeddings.weight", "output_layer.weight") else len(tensor)
        assert torch.equal(tensor[:rows], last[name][:rows]), name
        assert not last[name][rows:].any()


def test_logits_of_nvidias_model_survive(tmp_path: Path) -> None:
    """The reference is what NeMo itself computed, the judge of the export is transformers."""
    from transformers import AutoModelForCausalLM

    convert(FIXTURES / "classic_te_single" / "model.nemo", tmp_path / "hf", "hf")
    reference = torch.load(FIXTURES / "classic_te_single" / "logits.pt", weights_only=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    assert type(model).__name__ == "LlamaForCausalLM"
    with torch.inference_mode():
        logits = model(reference["input_ids"]).logits
    words = logits.shape[-1]
    assert words == 448
    assert (logits - reference["logits"][..., :words]).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    overrides = tiny_data.overrides(output_dir=str(tmp_path), trainer__max_steps="3")
    (outcome,) = gloo_pool.run(1, run_case, [*overrides, *FAMILIES[family]])
    assert outcome.code == 0, outcome.message
    nemo = tmp_path / "tiny" / "model.nemo"
    convert(nemo, tmp_path / "hf", "hf")
    found = gloo_pool.run(1, compare_case, str(nemo), str(tmp_path / "hf"))[0]
    assert found.largest > 0.1 and found.difference < 2e-5 and found.agrees
    convert(tmp_path / "hf", tmp_path / "back.nemo", "nemo")
    tokens = [list(range(5, 29))]
    logits = [gloo_pool.run(1, nemo_logits, str(path), tokens)[0] for path in (nemo, tmp_path / "back.nemo")]
    np.testing.assert_array_equal(logits[0], logits[1])
    # The run itself, its newest whole checkpoint, is a source too.
    convert(tmp_path / "tiny", tmp_path / "run.nemo", "nemo")
    assert_same(nemo, tmp_path / "run.nemo")


def compare_case(source: str, target: str) -> Comparison:
    return compare_logits(Path(source), Path(target))


def test_types(tmp_path: Path) -> None:
    source = FIXTURES / "classic_te_torch_dist" / "model.nemo"
    convert(source, tmp_path / "bf16.nemo", "nemo", "bf16")
    expected = {name: tensor.bfloat16() for name, tensor in contents(source).items()}
    found = contents(tmp_path / "bf16.nemo")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    with open_stored_model(tmp_path / "bf16.nemo") as opened:
        assert opened.config["precision"] == "bf16" and opened.config["megatron_amp_O2"] is True
    convert(tmp_path / "bf16.nemo", tmp_path / "fp32.nemo", "nemo", "fp32")
    assert {tensor.dtype for tensor in contents(tmp_path / "fp32.nemo").values()} == {torch.float32}


def test_refused(tmp_path: Path) -> None:
    source = FIXTURES / "classic_te_single" / "model.nemo"
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists; name a new"):
        convert(source, tmp_path / "there", "hf")
    with pytest.raises(UserError, match="no such directory; make it first"):
        convert(source, tmp_path / "no" / "x", "hf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no model that is known"):
        convert(tmp_path / "empty", tmp_path / "x", "hf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "there"]


def slow_conversions() -> None:
    """Each piece takes a fifth of a second longer."""
    tell = Conversion.tell

    def later(self: Conversion, *args: Any) -> None:
        time.sleep(0.2)
        tell(self, *args)

    Conversion.tell = later  # type: ignore[method-assign]


@pytest.mark.parametrize("to", ["hf", "nemo"])
def test_a_killed_conversion_leaves_nothing_that_looks_finished(to: str, tmp_path: Path) -> None:
    source, target = FIXTURES / "classic_te_single" / "model.nemo", tmp_path / "out"
    process = Forked("tools.convert", [str(source), str(target), "--to", to], slow_conversions)
    wait_for_file(tmp_path, lambda: process.poll() is None)
    time.sleep(0.3)
    process.kill()
    assert not target.exists()
    convert(source, target, to)
    assert target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "the next conversion cleans up"


def test_command_line(tmp_path: Path) -> None:
    source = FIXTURES / "classic_te_zarr" / "model.nemo"
    command = ("tools.convert", source, tmp_path / "hf", "--to", "hf")
    done = run_forked(*command, "--verify")
    assert done.returncode == 0 and "largest difference of logits" in done.stdout, done.stderr
    again = run_forked(*command)
    assert again.returncode == 2 and again.stderr.startswith("error: ") and again.stderr.count("\n") == 1
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    tokenizer = {"tokenizer.json", "tokenizer.model", "tokenizer_config.json"}
    assert names == {"config.json", "generation_config.json", "model.safetensors"} | tokenizer


def changed_tensor(directory: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """The fixture with one tensor changed in place."""
    state = local_state(directory.with_name("scratch"))
    change(state[f"model.{name}"])
    model = empty_model(directory)
    torch.save(state, model / "model_weights.ckpt")
    return model


def test_verify_fails_on_numbers_that_are_not_finite(tmp_path: Path) -> None:
    """Conversion itself warns and goes on."""
    name = "decoder.layers.1.mlp.linear_fc2.weight"
    source = changed_tensor(tmp_path / "model", name, lambda tensor: tensor[3, 4].fill_(float("nan")))
    target = tmp_path / "out.nemo"
    done = run_forked("tools.convert", source, target, "--to", "nemo", "--verify")
    assert done.returncode == 2 and target.exists()
    warning, error = done.stderr.splitlines()
    assert warning.startswith(f"warning: {name} of ") and "not finite" in warning
    assert error.startswith(f"error: {target} does not say what {source} says") and "left as it was" in error


@pytest.mark.parametrize("to", ["hf", "torch_dist"])
@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_numbers_that_are_not_finite_are_warned_about(
    to: str, number: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = changed_tensor(
        tmp_path / "model", "embedding.word_embeddings.weight", lambda tensor: tensor[7, 0].fill_(number)
    )
    convert(source, tmp_path / "out", to, "bf16")
    assert "warning: embedding.word_embeddings.weight of " in capsys.readouterr().err
    convert(FIXTURES / "classic_te_single" / "model.nemo", tmp_path / "sound", to)
    assert capsys.readouterr().err == ""


def test_bounds_of_verify(tmp_path: Path) -> None:
    source = FIXTURES / "classic_te_single" / "model.nemo"
    convert(source, tmp_path / "same.nemo", "nemo")
    found = compare_logits(source, tmp_path / "same.nemo")
    assert found.agrees and found.bound == BOUND and found.difference == 0
    convert(source, tmp_path / "bf16", "hf", "bf16")
    found = compare_logits(source, tmp_path / "bf16")
    assert found.agrees and found.bound == BOUND_NARROWED
    assert found.difference > BOUND * found.largest, "the wider bound is needed"
    # The bound of what was not narrowed sees one wrong row of one matrix.
    name = "decoder.layers.1.mlp.linear_fc2.weight"
    other = changed_tensor(tmp_path / "model", name, lambda tensor: tensor[3].mul_(1.5))
    found = compare_logits(source, other)
    assert not found.agrees and found.bound == BOUND


@pytest.mark.parametrize("key", ["encoder_seq_length", "micro_batch_size", "global_batch_size", "seed"])
def test_a_reference_in_the_place_of_a_number_is_refused(key: str, tmp_path: Path) -> None:
    source = unpacked(tmp_path / "model", FIXTURES / "classic_te_single")
    config = yaml.safe_load((source / "model_config.yaml").read_text())
    (source / "model_config.yaml").write_text(yaml.safe_dump({**config, key: "${.max_position_embeddings}"}))
    with pytest.raises(UserError, match=rf"{key}='\$\{{\.max_position_embeddings}}' is not an integer"):
        convert(source, tmp_path / "out.nemo", "nemo")
    assert not (tmp_path / "out.nemo").exists()


@pytest.mark.parametrize(
    ("to", "message"),
    [("nemo2", r"model\.megatron\.rotary_interleaved"), ("hf", r"model\.megatron=.*rotary_interleaved")],
)
def test_options_for_megatron_core_are_not_lost(to: str, message: str, tmp_path: Path) -> None:
    source = unpacked(tmp_path / "model", FIXTURES / "classic_te_single")
    config = yaml.safe_load((source / "model_config.yaml").read_text())
    config["recipes"] = {"megatron": {"rotary_interleaved": True}}
    (source / "model_config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=message):
        convert(source, tmp_path / "out", to)
    assert not (tmp_path / "out").exists()
    path = source
    for form in ("nemo", "torch_dist"):
        convert(path, tmp_path / form, form)
        path = tmp_path / form
        with open_stored_model(path) as opened:
            assert opened.model.megatron == {"rotary_interleaved": True}
            # NeMo would compute another model from its own keys.
            assert opened.config.get("target", OUR_TARGET) == OUR_TARGET
