"""The .nemo files that pretraining writes: layout, content, and the same model when read back."""

from __future__ import annotations

import dataclasses
import pickletools
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from recipes.checkpoint.convert import convert
from recipes.checkpoint.formats.archive import extract_archive, pack_archive
from recipes.checkpoint.formats.safety import parse_metadata
from recipes.checkpoint.nemo.classic_config import CLASSIC_TARGET, OUR_TARGET, is_classic
from recipes.checkpoint.open import open_stored_model
from recipes.checkpoint.stored.description import description_of
from recipes.config.schema import InferenceConfig
from recipes.families.model_config import ModelConfig
from recipes.inference.complete import complete
from recipes.inference.text_model import GPTTextModel, load_text_model
from tests.support.corpus import TinyData
from tests.support.nemo_files import CONFIG, MAIN, changed, read_tar
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case

# What classic NeMo's reader and its conversion scripts look up (fact sheet), with the values of this run.
EXPECTED = {
    "mcore_gpt": True,
    "micro_batch_size": 2,
    "global_batch_size": 8,
    "rampup_batch_size": None,
    "tensor_model_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "virtual_pipeline_model_parallel_size": None,
    "expert_model_parallel_size": 1,
    "sequence_parallel": False,
    "encoder_seq_length": 32,
    "max_position_embeddings": 64,
    "num_layers": 4,
    "hidden_size": 64,
    "ffn_hidden_size": 128,
    "init_method_std": 0.02,
    "use_scaled_init_method": True,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "ffn_dropout": 0.0,
    "apply_query_key_layer_scaling": False,
    "normalization": "rmsnorm",
    "layernorm_epsilon": 1e-5,
    "make_vocab_size_divisible_by": 128,
    "override_vocab_size": 1024,
    "bias": False,
    "activation": "fast-swiglu",
    "position_embedding_type": "rope",
    "rotary_percentage": 1.0,
    "rotary_base": 10000,
    "seq_len_interpolation_factor": None,
    "layernorm_zero_centered_gamma": False,
    "megatron_amp_O2": False,
    "precision": 32,
    "target": CLASSIC_TARGET,
    "nemo_version": "2.0.0",
}


def trained_logits_case(settings: list[str], tokens: list[list[int]]) -> list[list[list[float]]]:
    """Trains, and gives the trained module's own logits, computed before it is written."""
    import recipes.training.fit as fit

    computed: list[torch.Tensor] = []
    save = fit.NemoConnector.save_to

    def compute_and_save(self: Any, model: Any, save_path: str) -> None:
        model.gpt.eval()
        ids = torch.tensor(tokens)
        with torch.no_grad():
            computed.append(model.gpt(ids, torch.arange(ids.shape[1]).expand_as(ids), None))
        save(self, model, save_path)

    fit.NemoConnector.save_to = compute_and_save  # type: ignore[method-assign]
    try:
        assert run_case(settings).code == 0
    finally:
        fit.NemoConnector.save_to = save  # type: ignore[method-assign]
    return computed[0].tolist()


TOKENS = [[5, 9, 2, 300, 41, 77, 12, 799], [1, 2, 3, 4, 5, 6, 7, 8]]


@pytest.fixture(scope="module", params=["tied", pytest.param("untied", marks=pytest.mark.slow)])
def trained(
    request: pytest.FixtureRequest, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path_factory: Any
) -> tuple[Path, torch.Tensor]:
    """model.nemo of 15 steps, and the logits of the module that was saved."""
    output_dir = tmp_path_factory.mktemp("trained")
    settings = tiny_data.overrides(
        output_dir=str(output_dir),
        trainer__max_steps="15",
        model__share_embeddings_and_output_weights=str(request.param == "tied").lower(),
    )
    (logits,) = gloo_pool.run(1, trained_logits_case, settings, TOKENS)
    return output_dir / "tiny" / "model.nemo", torch.tensor(logits)


@pytest.fixture(scope="module")
def model(trained: tuple[Path, torch.Tensor]) -> GPTTextModel:
    return load_text_model(str(trained[0]), precision="fp32", num_threads=1)


def test_tar_layout_is_nemos(trained: tuple[Path, torch.Tensor], tiny_data: TinyData) -> None:
    with tarfile.open(trained[0], "r:") as ours, tarfile.open(MAIN / "model.nemo", "r:") as nemos:
        names, nemos_names = ours.getnames(), nemos.getnames()
        assert all(member.isreg() or member.isdir() for member in ours)

    def anonymous(names: list[str]) -> set[str]:
        return {re.sub(r"[0-9a-f]{32}_.*\.model", "TOKENIZER", name) for name in names}

    assert anonymous(names) - {"./model_weights/__0_1.distcp"} == anonymous(nemos_names) - {
        "./model_weights/__0_1.distcp"
    }
    assert all(name == "." or name.startswith("./") for name in names) and len(names) == len(set(names))
    files = read_tar(trained[0])
    (tokenizer,) = [name for name in files if name.endswith(".model")]
    assert re.fullmatch(r"\./[0-9a-f]{32}_tokenizer\.model", tokenizer)
    assert files[tokenizer] == tiny_data.tokenizer.read_bytes()
    assert yaml.safe_load(files[CONFIG])["tokenizer"]["model"] == f"nemo:{tokenizer[2:]}"
    assert b"torch_dist" in files["./model_weights/metadata.json"]


def classes_of(pickled: bytes) -> set[str]:
    """Modules and names that a pickle would import."""
    strings: list[str] = []
    found = set()
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "GLOBAL":
            found.add(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            found.add(".".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)
    return found


def test_metadata_needs_nothing_that_classic_nemo_lacks(trained: tuple[Path, torch.Tensor]) -> None:
    """NeMo 2.0 has megatron-core 0.9, whose checkpoints name torch's classes only, and torch 2.4."""
    ours = read_tar(trained[0])["./model_weights/.metadata"]
    nemos = read_tar(MAIN / "model.nemo")["./model_weights/.metadata"]
    assert not [name for name in classes_of(ours) if name.startswith("megatron")]
    stored = parse_metadata(ours, "ours", 10**9)
    expected = parse_metadata(nemos, "NeMo's", 10**9)
    tied = "model.output_layer.weight" not in stored.state_dict_metadata
    head = {"model.output_layer.weight"} if tied else set()
    assert set(stored.state_dict_metadata) == set(expected.state_dict_metadata) - head
    assert set(stored.mcore_data) == {key for key in stored.state_dict_metadata if "_extra_state" not in key}


def test_model_config_is_nemos(trained: tuple[Path, torch.Tensor]) -> None:
    config = yaml.safe_load(read_tar(trained[0])[CONFIG])
    assert {key: config.get(key, "missing") for key in EXPECTED} == EXPECTED
    assert config["tokenizer"]["library"] == "sentencepiece"
    assert config["recipes"] == {
        "family": "llama",
        "format_version": 1,
        "vocab_size": 1000,
        "document_start": "eos",
        "megatron": {},
        "notes": "Documents began with </s> (id 2) in training, and NeMo's add_BOS puts another token there. "
        "Prompt with token ids that begin with 2: model.generate((ids, lengths), ...), both tensors.",
        "step": 15,
    }
    nemos = yaml.safe_load(read_tar(MAIN / "model.nemo")[CONFIG])
    # Ours alone: megatron-core would take rotary_base from it, NeMo's default being the same.
    assert set(config) - set(nemos) <= {
        "recipes",
        "rotary_base",
        "layernorm_zero_centered_gamma",
        "override_vocab_size",
    }


def test_read_back_it_is_the_trained_model(trained: tuple[Path, torch.Tensor], model: GPTTextModel) -> None:
    logits = model.logits(torch.tensor(TOKENS))
    difference = (logits - trained[1][..., : logits.shape[-1]]).abs().max().item()
    print(f"logits read back: {difference:.1e} from the trained module's")
    assert logits.shape == (2, 8, 800) and logits.std() > 0.1
    assert difference < 1e-5


def test_directory_and_repacked_archive_are_the_same(
    trained: tuple[Path, torch.Tensor], model: GPTTextModel, tmp_path: Path
) -> None:
    extract_archive(trained[0], tmp_path / "model_extracted")
    pack_archive(tmp_path / "model_extracted", tmp_path / "again.nemo")
    tokens = torch.tensor(TOKENS)
    for path in (tmp_path / "model_extracted", tmp_path / "again.nemo"):
        other = load_text_model(str(path), precision="fp32", num_threads=1)
        assert torch.equal(other.logits(tokens), model.logits(tokens))
        assert other.document_start_id == model.eos_id


def test_prompts_start_as_documents_did(model: GPTTextModel) -> None:
    """EOS stood between documents, so it stands before a prompt; add_BOS decides otherwise."""
    settings = InferenceConfig(greedy=True, tokens_to_generate=2)
    (result,) = complete(model, ["Asha"], settings, batch_size=1, seed=1)
    assert result.token_ids[0] == model.eos_id
    (result,) = complete(
        model,
        ["Asha"],
        InferenceConfig(greedy=True, tokens_to_generate=2, add_BOS=True),
        batch_size=1,
        seed=1,
    )
    assert result.token_ids[0] == model.bos_id


def test_a_model_with_further_megatron_options_is_read_back(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """model.megatron travels in the file: without it another function would be computed.

    What only says how the run computes stays with the run: one's own YAML may have files written.
    """
    settings = tiny_data.overrides(output_dir=str(tmp_path), trainer__max_steps="5")
    logged = tmp_path / "logged"
    settings.append(f"+model.megatron={{rotary_interleaved:true,config_logger_dir:'{logged}'}}")
    (logits,) = gloo_pool.run(1, trained_logits_case, settings, TOKENS)
    path = tmp_path / "tiny" / "model.nemo"
    read = load_text_model(str(path), precision="fp32", num_threads=1)
    assert (read.logits(torch.tensor(TOKENS)) - torch.tensor(logits)[..., :800]).abs().max() < 1e-5
    assert any(logged.iterdir())
    config = yaml.safe_load(read_tar(path)[CONFIG])
    assert config["recipes"]["model"]["megatron"] == {"rotary_interleaved": True}
    assert config["target"] == OUR_TARGET, "NeMo would compute another function"
    with open_stored_model(tmp_path / "tiny") as checkpoint:
        assert checkpoint.model.megatron == {"rotary_interleaved": True}
    # How a run computes may change when it goes on, what it computes may not.
    settings[-1] = "+model.megatron={rotary_interleaved:true}"
    (outcome,) = gloo_pool.run(1, run_case, [*settings, "trainer.max_steps=6"])
    assert outcome.code == 0, outcome.message
    settings[-1] = "+model.megatron={rotary_interleaved:false}"
    (outcome,) = gloo_pool.run(1, run_case, [*settings, "trainer.max_steps=7"])
    assert outcome.code == 2 and "model.megatron={'rotary_interleaved': False}" in outcome.message


def test_options_of_how_a_run_computes_leave_the_file_classic() -> None:
    model = ModelConfig(num_layers=1, hidden_size=8, ffn_hidden_size=8, num_attention_heads=1, vocab_size=8)
    for option, classic in (("cpu_offloading", True), ("rotary_interleaved", False)):
        described = dataclasses.replace(model, megatron={option: True})
        assert is_classic(described) is classic
        assert description_of(described)["megatron"] == ({} if classic else {option: True})


def test_prompts_start_with_nothing_where_documents_did(trained: Any, tmp_path: Path) -> None:
    """Training never saw BOS: not in the file, and not after a detour over Hugging Face's form."""

    def without_start(content: bytes) -> bytes:
        config = yaml.safe_load(content)
        config["recipes"]["document_start"] = None
        return yaml.safe_dump(config).encode()

    path = changed(trained[0], tmp_path / "none.nemo", CONFIG, without_start)
    convert(path, tmp_path / "hf", "hf")
    convert(tmp_path / "hf", tmp_path / "back.nemo", "nemo")
    for stored in (path, tmp_path / "hf", tmp_path / "back.nemo"):
        model = load_text_model(str(stored), precision="fp32", num_threads=1)
        assert model.document_start_id is None and model.bos_id is not None
        settings = InferenceConfig(greedy=True, tokens_to_generate=2)
        (result,) = complete(model, ["Asha"], settings, batch_size=1, seed=1)
        ids = model.encode("Asha")
        assert result.token_ids[: len(ids)] == ids


@pytest.mark.slow
def test_tensor_parallel_ranks_write_one_model(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    single = tiny_data.overrides(output_dir=str(tmp_path / "1"), trainer__max_steps="5")
    split = tiny_data.overrides(output_dir=str(tmp_path / "2"), trainer__max_steps="5")
    gloo_pool.run(1, run_case, single)
    gloo_pool.run(2, run_case, [*split, "parallel=tp2"])
    first, second = (
        load_text_model(str(tmp_path / name / "tiny" / "model.nemo"), precision="fp32", num_threads=1)
        for name in ("1", "2")
    )
    tokens = torch.tensor(TOKENS)
    assert (first.logits(tokens) - second.logits(tokens)).abs().max() < 1e-4
