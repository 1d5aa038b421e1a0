"""A Hugging Face tokenizer goes the whole way: data, training, .nemo, completion, transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from recipes.checkpoint.convert import convert
from recipes.checkpoint.formats.archive import read_member
from recipes.checkpoint.open import open_stored_model
from recipes.data.tokenize.preprocess import preprocess
from recipes.data.tokenizer import load_tokenizer
from recipes.data.tokenizer.train import train_tokenizer
from recipes.errors import UserError
from tests.support.cases import completions
from tests.support.corpus import TinyData
from tests.support.nemo_files import FIXTURES
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case

LANGUAGES = ("en", "hi")
PROMPTS = ["भारत में", "The river"]


def test_byte_level_bpe_from_text_to_transformers(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = {language: tiny_data.directory / "corpus" / f"train.{language}.jsonl" for language in LANGUAGES}
    directory = tmp_path / "bytes"
    tokenizer = train_tokenizer(list(texts.values()), directory, vocab_size=900, model_type="byte_bpe")
    for language, text in texts.items():
        preprocess([text], directory, tmp_path / f"train_{language}")
    sources = ",".join(f"{name}:{{path:{tmp_path}/train_{name},weight:0.5}}" for name in LANGUAGES)
    overrides = tiny_data.overrides(
        output_dir=str(tmp_path), trainer__max_steps="3", tokenizer__model=str(directory),
        data__train=f"{{{sources}}}", data__valid=f"{{en:{tmp_path}/train_en}}",
    )  # fmt: skip
    (outcome,) = gloo_pool.run(1, run_case, overrides)
    assert outcome.code == 0, outcome.message

    nemo = tmp_path / "tiny" / "model.nemo"
    section = yaml.safe_load(read_member(nemo, "model_config.yaml"))["tokenizer"]
    assert section["library"] == "huggingface" and section["type"].startswith("nemo:")
    # The run names its tokenizer; .nemo and NeMo 2 carry it.
    convert(nemo, tmp_path / "nemo2", "nemo2")
    for source in (nemo, tmp_path / "tiny", tmp_path / "nemo2"):
        with open_stored_model(source) as opened:
            assert opened.text_tokenizer.sha256 == tokenizer.sha256
    (texts_of_ours,) = gloo_pool.run(1, completions, str(nemo), PROMPTS)

    convert(nemo, tmp_path / "hf", "hf")
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / "hf" / file).read_bytes() == (directory / file).read_bytes()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert model.config.eos_token_id == theirs.eos_token_id == tokenizer.eos_id
    for prompt, completion in zip(PROMPTS, texts_of_ours, strict=True):
        # Documents began after the end of the one before, and prompts are given that start.
        ids = [tokenizer.eos_id, *theirs(prompt, add_special_tokens=False).input_ids]
        new = len(tokenizer.encode(completion)) + 8
        out = model.generate(torch.tensor([ids]), max_new_tokens=new, do_sample=False)[0].tolist()
        text = theirs.decode(out, skip_special_tokens=True)
        assert completion and text.startswith(prompt + completion)

    # And from there to NeMo again, with nothing but tokenizer.json.
    assert not (tmp_path / "hf" / "tokenizer.model").exists()
    convert(tmp_path / "hf", tmp_path / "back.nemo", "nemo")
    (again,) = gloo_pool.run(1, completions, str(tmp_path / "back.nemo"), PROMPTS)
    assert again == texts_of_ours


def test_data_of_another_tokenizer_is_refused(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    corpus = tiny_data.directory / "corpus" / "train.en.jsonl"
    train_tokenizer([corpus], tmp_path / "bytes", vocab_size=400, model_type="byte_bpe")
    overrides = tiny_data.overrides(output_dir=str(tmp_path), tokenizer__model=str(tmp_path / "bytes"))
    (outcome,) = gloo_pool.run(1, run_case, overrides)
    assert outcome.code == 2 and "was tokenized with another tokenizer" in outcome.message


def test_a_sentencepiece_model_that_says_the_same_is_kept(tmp_path: Path) -> None:
    """Beside the tokenizer.json that was made from it: NeMo's forms get back what they had."""
    source = FIXTURES / "classic_te_single" / "model.nemo"
    convert(source, tmp_path / "hf", "hf")
    with open_stored_model(tmp_path / "hf") as opened:
        assert opened.tokenizer.library == "sentencepiece"
    # Another tokenizer.json: it decides, as in transformers.
    path = tmp_path / "hf" / "tokenizer.json"
    document = json.loads(path.read_text("utf-8"))
    document["model"]["merges"] = document["model"]["merges"][::2]
    path.write_text(json.dumps(document), "utf-8")
    with open_stored_model(tmp_path / "hf") as opened:
        assert opened.tokenizer.library == "huggingface"
        assert opened.text_tokenizer.sha256 == load_tokenizer(tmp_path / "hf").sha256
    # One that cannot be read is not passed over.
    path.write_text("{}")
    with (
        open_stored_model(tmp_path / "hf") as opened,
        pytest.raises(UserError, match="neither BPE nor Unigram"),
    ):
        opened.tokenizer.load()
    with pytest.raises(UserError, match="NeMo's forms carry a tokenizer"):
        convert(tmp_path / "hf", tmp_path / "x.nemo", "nemo")


def test_a_tokenizer_of_the_hub_is_refused_by_name(tmp_path: Path) -> None:
    """Older .nemo files name one instead of carrying it."""
    from recipes.checkpoint.formats.archive import extract_archive

    extract_archive(FIXTURES / "classic_te_single" / "model.nemo", tmp_path / "model")
    path = tmp_path / "model" / "model_config.yaml"
    config = yaml.safe_load(path.read_text())
    config["tokenizer"] = {"library": "huggingface", "type": "../../meta-llama/Llama-2-7b-hf"}
    path.write_text(yaml.safe_dump(config))
    with (
        open_stored_model(tmp_path / "model") as opened,
        pytest.raises(UserError, match=r"cannot read the tokenizer .*Llama-2-7b-hf.*no such file"),
    ):
        _ = opened.text_tokenizer
