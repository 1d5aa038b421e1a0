"""Checkpoints that NVIDIA's NeMo wrote, against the logits and completions that it computed itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from recipes.checkpoint.formats.archive import extract_archive, pack_archive
from recipes.config.schema import InferenceConfig
from recipes.errors import UserError
from recipes.inference.complete import complete, score
from recipes.inference.text_model import GPTTextModel, load_text_model
from tests.support.nemo_files import CONFIG, FIXTURES, MAIN, changed
from tests.support.stored_forms import compressed, legacy_name, rank_files, zarr_directory

FP32_FIXTURES = {
    "classic_te_torch_dist": "model.nemo",
    "classic_te_torch_dist_tp2": "model.nemo",
    "classic_local_torch_dist": "model.nemo",
    "classic_te_zarr": "model.nemo",
    "classic_te_single": "model.nemo",
    "classic_local_single": "model.nemo",
    "nemo2_v200_te": "ckpt",
    "nemo2_local": "ckpt",
}
VOCABULARY = 448
NEMO_OUTPUT: dict[str, Any] = json.loads((MAIN / "nemo_generate.json").read_text(encoding="utf-8"))
GREEDY = InferenceConfig(greedy=True, tokens_to_generate=16, repetition_penalty=1.0)


def all_logits(model: GPTTextModel, tokens: torch.Tensor) -> torch.Tensor:
    """Over the padded vocabulary, as NeMo computed them."""
    with torch.inference_mode():
        return model._forward(tokens, 0, None, *tokens.shape)


@pytest.fixture(scope="module")
def main_model() -> GPTTextModel:
    return load_text_model(str(MAIN / "model.nemo"), precision="fp32", num_threads=1)


@pytest.mark.parametrize("name", FP32_FIXTURES)
def test_logits_are_nemos(name: str, record_property: Any) -> None:
    model = load_text_model(str(FIXTURES / name / FP32_FIXTURES[name]), precision="fp32", num_threads=1)
    expected = torch.load(FIXTURES / name / "logits.pt", weights_only=True)
    logits = all_logits(model, expected["input_ids"])
    difference = (logits - expected["logits"]).abs().max().item()
    record_property("max_logit_difference", difference)
    print(f"{name}: {difference:.2e}")
    assert logits.shape == (2, 32, 512) and expected["logits"].std() > 0.5
    assert difference < 2e-5
    assert torch.equal(model.logits(expected["input_ids"]), logits[..., :VOCABULARY])


def test_bf16_weights_computed_in_fp32() -> None:
    directory = FIXTURES / "classic_te_torch_dist_bf16"
    model = load_text_model(str(directory / "model.nemo"), precision="fp32", num_threads=1)
    expected = torch.load(directory / "logits.pt", weights_only=True)
    logits = all_logits(model, expected["input_ids"])
    difference = (logits - expected["logits_fp32_compute_from_bf16_weights"]).abs().max().item()
    print(f"bf16 weights, fp32 arithmetic: {difference:.2e}")
    assert difference < 2e-5
    # The stored weights really are bf16's: those of the fp32 file give other logits.
    other = torch.load(MAIN / "logits.pt", weights_only=True)["logits"]
    assert (logits - other).abs().max() > 1e-3


def test_bf16_weights_computed_in_bf16() -> None:
    directory = FIXTURES / "classic_te_torch_dist_bf16"
    model = load_text_model(str(directory / "model.nemo"), precision="bf16", num_threads=1)
    expected = torch.load(directory / "logits.pt", weights_only=True)
    logits = all_logits(model, expected["input_ids"])
    exact = expected["logits_fp32_compute_from_bf16_weights"]
    # NeMo's own bf16 arithmetic is this far from fp32; ours may not be much farther.
    nemos_error = (expected["logits"].float() - exact).abs().max().item()
    our_error = (logits.float() - exact).abs().max().item()
    print(f"bf16 arithmetic: ours {our_error:.3f} from fp32, NeMo's {nemos_error:.3f}")
    assert logits.dtype == torch.bfloat16 and 0 < our_error < 1.5 * nemos_error


@pytest.mark.parametrize("case", ["greedy", "greedy_rep1.2", "greedy_min_end"])
def test_greedy_completion_is_token_for_token_nemos(main_model: GPTTextModel, case: str) -> None:
    """Two prompts of unequal length in one batch; the penalty changes nothing; with and without BOS."""
    nemo = NEMO_OUTPUT[case]
    settings = replace(
        GREEDY,
        add_BOS=nemo["sampling_params"]["add_BOS"],
        repetition_penalty=nemo["sampling_params"]["repetition_penalty"],
        end_strings=nemo["sampling_params"]["end_strings"],
        tokens_to_generate=nemo["length_params"]["max_length"],
    )
    results = list(complete(main_model, nemo["prompts"], settings, batch_size=2, seed=1))
    assert [result.token_ids for result in results] == nemo["output"]["token_ids"]
    lengths = [len(main_model.encode(prompt)) for prompt in nemo["prompts"]]
    assert lengths[0] != lengths[1]
    sentences = [result.prompt + result.completion for result in results]
    assert sentences == nemo["output"]["sentences"]


def test_bos_is_the_default_for_nemos_own_files(main_model: GPTTextModel) -> None:
    nemo = NEMO_OUTPUT["greedy"]
    results = list(complete(main_model, nemo["prompts"], GREEDY, batch_size=8, seed=1))
    assert [result.token_ids for result in results] == nemo["output"]["token_ids"]


def test_log_probabilities(main_model: GPTTextModel) -> None:
    """NeMo's run: without BOS. Within the batch's shortest prompt its softmax went over the padded
    vocabulary, after it (where it masks ids that the tokenizer lacks before it samples) over the real one,
    as ours always does. Its last number belongs to a token after the prompt."""
    nemo = NEMO_OUTPUT["compute_logprob"]
    settings = replace(GREEDY, add_BOS=False)
    scores = list(score(main_model, nemo["prompts"], settings))
    shortest = min(len(main_model.encode(prompt)) for prompt in nemo["prompts"])
    for prompt, ids, theirs, ours in zip(
        nemo["prompts"], nemo["output"]["token_ids"], nemo["output"]["logprob"], scores, strict=True
    ):
        tokens = torch.tensor([main_model.encode(prompt)])
        assert tokens[0].tolist() == ids == ours.token_ids
        raw = all_logits(main_model, tokens)[0].double()
        places = torch.arange(len(ids) - 1)
        padded = raw.log_softmax(-1)[places, tokens[0, 1:]]
        assert len(theirs) == len(ids)
        assert padded.tolist()[:shortest] == pytest.approx(theirs[:-1][:shortest], abs=2e-5)
        assert ours.logprob[shortest:] == pytest.approx(theirs[:-1][shortest:], abs=2e-5)
        # The definition, written out: log of exp(chosen) over the sum of the real tokens' exp.
        real = raw[:-1, :VOCABULARY]
        expected = raw[places, tokens[0, 1:]] - real.exp().sum(-1).log()
        assert ours.logprob == pytest.approx(expected.tolist(), abs=2e-5)
        assert all(a > b for a, b in zip(ours.logprob, padded.tolist(), strict=True))


def test_extracted_directory_is_read_like_the_file(main_model: GPTTextModel, tmp_path: Path) -> None:
    extract_archive(MAIN / "model.nemo", tmp_path / "extracted")
    model = load_text_model(str(tmp_path / "extracted"), precision="fp32", num_threads=1)
    tokens = torch.load(MAIN / "logits.pt", weights_only=True)["input_ids"]
    assert torch.equal(model.logits(tokens), main_model.logits(tokens))


def test_every_fixture_is_read() -> None:
    names = {path.name for path in FIXTURES.iterdir()}
    assert names == {*FP32_FIXTURES, "classic_te_torch_dist_bf16"} and len(names) == 9


FORMS: dict[str, Callable[[Path, Path], Path]] = {
    "mp_rank, 2 ranks": lambda out, scratch: rank_files(out, scratch, tp=2),
    "tp_rank_pp_rank, 2 x 2": lambda out, scratch: rank_files(out, scratch, tp=2, pp=2),
    "mp_rank, 2 ranks, before megatron-core": lambda out, scratch: rank_files(
        out, scratch, tp=2, rename=legacy_name
    ),
    "zarr of NeMo 1.23, 2 ranks": lambda out, scratch: zarr_directory(out, scratch, torch.float32, tp=2),
}
COMPRESSED = {
    f"{name}, compressed": lambda out, scratch, name=name: compressed(FIXTURES / name / "model.nemo", out)
    for name in ("classic_te_single", "classic_te_torch_dist", "classic_te_zarr")
}


@pytest.mark.parametrize(
    ("form", "packed"),
    [
        *((form, packed) for form in FORMS for packed in (False, True)),
        *((form, False) for form in COMPRESSED),
    ],
)
def test_further_forms_of_the_same_model(form: str, packed: bool, tmp_path: Path) -> None:
    """Written here from the fixture's tensors; read unpacked and inside of a .nemo."""
    path = (FORMS | COMPRESSED)[form](tmp_path / "model", tmp_path / "scratch")
    if packed:
        pack_archive(path, tmp_path / "model.nemo")
        path = tmp_path / "model.nemo"
    model = load_text_model(str(path), precision="fp32", num_threads=1)
    expected = torch.load(MAIN / "logits.pt", weights_only=True)
    difference = (all_logits(model, expected["input_ids"]) - expected["logits"]).abs().max().item()
    print(f"{form}: {difference:.2e}")
    assert difference < 2e-5


def test_bf16_zarr(tmp_path: Path) -> None:
    """The same bf16 numbers as in the bf16 fixture, so the same logits."""
    path = zarr_directory(tmp_path / "model", tmp_path / "scratch", torch.bfloat16)
    model = load_text_model(str(path), precision="fp32", num_threads=1)
    expected = torch.load(FIXTURES / "classic_te_torch_dist_bf16" / "logits.pt", weights_only=True)
    exact = expected["logits_fp32_compute_from_bf16_weights"]
    difference = (all_logits(model, expected["input_ids"]) - exact).abs().max().item()
    print(f"bf16 zarr: {difference:.2e}")
    assert difference < 2e-5


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("num_layers: 4", "num_layers: 3", "num_layers=3"),
        ("num_layers: 4", "num_layers: 400000000", "num_layers=400,000,000"),
        ("num_layers: 4", "num_layers: four", "num_layers='four'"),
        ("num_layers: 4\n", "", "num_layers"),
        ("hidden_size: 64\nffn", "hidden_size: 128\nffn", "hidden_size=128"),
        ("ffn_hidden_size: 192", "ffn_hidden_size: 64", "ffn_hidden_size=64"),
        ("num_query_groups: 2", "num_query_groups: 3", "num_query_groups=3"),
        ("num_query_groups: 2", "num_query_groups: 4", "linear_qkv"),
        ("bias: false", "bias: true", "bias"),
        ("normalization: rmsnorm", "normalization: layernorm1p", "layernorm1p"),
        ("activation: fast-swiglu", "activation: geglu", "geglu"),
        (
            "share_embeddings_and_output_weights: false",
            "share_embeddings_and_output_weights: true",
            "output_layer",
        ),
        ("position_embedding_type: rope", "position_embedding_type: alibi", "alibi"),
        ("transformer_block_type: pre_ln", "transformer_block_type: post_ln", "post_ln"),
        ("layernorm_epsilon: 1.0e-05", "layernorm_epsilon: [1]", "layernorm_epsilon"),
        ("library: sentencepiece", "library: megatron", "megatron"),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(old: str, new: str, named: str, tmp_path: Path) -> None:
    def edit(content: bytes) -> bytes:
        text = content.decode()
        assert text.count(old) >= 1
        return text.replace(old, new, 1).encode()

    broken = changed(MAIN / "model.nemo", tmp_path / "broken.nemo", CONFIG, edit)
    with pytest.raises(UserError) as caught:
        load_text_model(str(broken), precision="fp32", num_threads=1)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_yaml_floats_without_a_point_are_read(tmp_path: Path, main_model: GPTTextModel) -> None:
    """YAML 1.1 reads 1e-05 as a string; other tools write it."""

    def edit(content: bytes) -> bytes:
        return content.replace(b"layernorm_epsilon: 1.0e-05", b"layernorm_epsilon: 1e-05")

    path = changed(MAIN / "model.nemo", tmp_path / "other.nemo", CONFIG, edit)
    model = load_text_model(str(path), precision="fp32", num_threads=1)
    tokens = torch.load(MAIN / "logits.pt", weights_only=True)["input_ids"]
    assert torch.equal(model.logits(tokens), main_model.logits(tokens))


def test_the_fixture_says_what_the_fact_sheet_says(tmp_path: Path) -> None:
    extract_archive(MAIN / "model.nemo", tmp_path / "x")
    config = yaml.safe_load((tmp_path / "x" / "model_config.yaml").read_text())
    assert config["nemo_version"] == "2.0.0" and config["tokenizer"]["model"].startswith("nemo:")
