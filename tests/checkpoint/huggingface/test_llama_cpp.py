"""What llama.cpp makes of an export: what is said of it, and, where it is installed, whether that is so.

The slow test needs llama.cpp's sources, whose convert_hf_to_gguf.py it runs (LLAMA_CPP_DIR, for example the
vendor/llama.cpp of llama-cpp-python's source distribution), and a Python that has the package
llama-cpp-python (LLAMA_CPP_PYTHON, the present one if it is not set).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.checkpoint.huggingface.llama_cpp import llama_cpp_warnings
from recipes.checkpoint.huggingface.tokenizer import special_ids, write_tokenizer
from recipes.data.tokenizer import load_tokenizer
from recipes.data.tokenizer.train import train_tokenizer
from recipes.families.model_config import ModelConfig
from recipes.release.llama_cpp import BOUND, LlamaCpp, ask, convert_to_gguf
from tests.support.corpus import TinyData
from tests.support.engine import initialized, process_groups
from tests.support.huggingface_models import CASES, LLAMA, export, loaded, shaken, stored_in, tensors_of

Files = dict[str, bytes]
GEMMA_PERIOD = replace(CASES["gemma3"], num_layers=6, window_pattern="SSSSSL")


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def kind(request: Any) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tokenizers(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """SentencePiece models and a byte-level directory as this project trains them."""
    directory = tmp_path_factory.mktemp("tokenizers")
    inputs = [tiny_data.directory / "corpus" / f"train.{language}.jsonl" for language in ("en", "hi")]
    for kind in ("bpe", "unigram", "byte_bpe"):
        train_tokenizer(inputs, directory / kind, vocab_size=800, model_type=kind)
    return {kind: directory / f"{kind}.model" for kind in ("bpe", "unigram")}


def exported(directory: Path, model_file: Path) -> Files:
    directory.mkdir()
    assert write_tokenizer(directory, model_file, document_start="eos", max_length=64) == []
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_the_projects_own_kind_needs_no_warning(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    files = exported(tmp_path / "hf", tokenizers["bpe"])
    settings = json.loads(files["tokenizer_config.json"])
    assert settings["add_prefix_space"] is False
    for model in (LLAMA, CASES["mixtral"], GEMMA_PERIOD):
        assert llama_cpp_warnings(model, files) == []


def test_unigram(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    (line,) = llama_cpp_warnings(LLAMA, exported(tmp_path / "hf", tokenizers["unigram"]))
    assert "unigram" in line and "--type bpe" in line


def test_the_space_before_a_text(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    """Only for some classes the converter asks for it, and its defaults differ."""
    files = exported(tmp_path / "hf", tokenizers["bpe"])
    (line,) = llama_cpp_warnings(CASES["qwen3"], files)
    assert "puts a space before every text for a Qwen3ForCausalLM" in line
    files["tokenizer_config.json"] = b"{}"  # As an export of an earlier version, or of somebody else's.
    (line,) = llama_cpp_warnings(LLAMA, files)
    assert "puts a space before every text for a LlamaForCausalLM" in line


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("gemma3", "windows as in SSSSSL, not SSL"),
        ("mistral", "ignores the window of a MistralForCausalLM: texts of more than 5 tokens"),
        ("glm4_moe", "Glm4MoeForCausalLM with GLM's own tokenizer only"),
        ("nano_hindi", "has no NanoHindiForCausalLM"),
        ("param_moe", "has no ParamMoeForCausalLM"),
    ],
)
def test_architectures(case: str, said: str, tokenizers: dict[str, Path], tmp_path: Path) -> None:
    (line,) = llama_cpp_warnings(CASES[case], exported(tmp_path / "hf", tokenizers["bpe"]))
    assert said in line and "\n" not in line


def test_gemmas_without_windows_and_byte_level_tokenizers() -> None:
    full = replace(CASES["gemma3"], window_size=None, window_pattern=None)
    windows, tokenizer = llama_cpp_warnings(full, {"tokenizer.json": b"{}"})
    assert "not L" in windows and "hash of their ids" in tokenizer
    assert llama_cpp_warnings(LLAMA, {}) == []


# The runtime itself

TEXTS = [
    "The monsoon reaches Kerala in the first days of June.",
    "भारत में बारिश कब होगी? मौसम विभाग के अनुसार जून में।",
    "  two  spaces\tand\nlines\n\n",
    "Delhi दिल्ली 1947, 28.6° N 🙂",
    "a",
    " ",
    "\n",
    "\t\t",
    "   leading and trailing   ",
    "line\r\nends\rof all kinds\n",
    "no\u00a0break, thin\u2009and em\u2003spaces",
    "zero\u200bwidth, joined\u2060words, \ufeffmark",
    "क्\u200dष and क्\u200cष: joiner and non-joiner",
    "क़ ख़ ग़ ज़ ड़ ढ़ फ़ य़",
    "हिन्दी हिंदी, चाँद चांद, गङ्गा गंगा",
    "श्रीमान् विद्युत् कार्त्स्न्य",
    "१२३४५६७८९० and 1234567890",
    "₹ 1,23,456.78 ≈ १.२३ लाख",
    "॥ श्री गणेशाय नमः ॥ ॐ",
    "मैंने उससे कहा, “कल आना।”",
    "don't, won’t, it's, l'été",
    "I'M SHOUTING and you'Re not",
    "camelCase snake_case kebab-case SCREAMING_CASE",
    "def f(x):\n    return x ** 2  # पंक्ति\n",
    '{"key": [1, 2.5e-3, null]}',
    "https://example.org/a?b=c&d=%E0%A4%B9#e",
    "a@example.org, +91 98765 43210",
    "<s> </s> <unk> <pad> <0x0A> as text",
    "<|endoftext|> [INST] <|im_start|>",
    "é, ñ and \u0929: composed",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "हाहाहाहाहाहाहाहाहाहाहाहाहाहाहा",
    "!!!???...,,,;;;:::---___",
    "…—–‘’“”«»",
    "👩\u200d👩\u200d👧\u200d👦 🇮🇳 🏳️\u200d🌈 👍🏽",
    "漢字かな한글 Ελληνικά עברית العربية",
    "தமிழ் বাংলা ગુજરાતી ਪੰਜਾਬੀ ಕನ್ನಡ മലയാളം ଓଡ଼ିଆ اردو",
    "H₂O, x² + y² = z², ½, Å, ﬁ",
    "\x01\x7f control \x1b[0m",
    "Yeh Hinglish hai, बिल्कुल mixed type का text yaar!",
]
NOT_NFC = "e\u0301 and \u0928\u093c: composed by our tokenizer, as in training, and not by llama.cpp"
CONVERTER = Path(os.environ.get("LLAMA_CPP_DIR", "")) / "convert_hf_to_gguf.py"
INSTALLED = LlamaCpp(CONVERTER.parent, os.environ.get("LLAMA_CPP_PYTHON", sys.executable))


@pytest.fixture(scope="module")
def runtime() -> None:
    """Skips where llama.cpp is not there."""
    if "LLAMA_CPP_DIR" not in os.environ or not CONVERTER.is_file():
        pytest.skip("LLAMA_CPP_DIR names no llama.cpp sources with convert_hf_to_gguf.py")
    if subprocess.run([INSTALLED.python, "-c", "import llama_cpp"], capture_output=True).returncode:
        pytest.skip(f"{INSTALLED.python} has no llama-cpp-python (pip install llama-cpp-python)")


@pytest.fixture(scope="module")
def engine() -> Iterator[None]:
    with process_groups():
        yield


def greedy(model: Any, prompt: list[int], length: int) -> list[int]:
    """transformers' continuation."""
    tokens = torch.tensor([prompt])
    found = model.generate(tokens, max_new_tokens=length, do_sample=False, eos_token_id=None, use_cache=False)
    return [int(token) for token in found[0, len(prompt) :]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "kind", "agrees"),
    [
        ("llama", "bpe", True),
        ("gemma3_period", "bpe", True),
        ("gemma3", "bpe", False),
        ("llama", "unigram", True),
    ],
)
def test_llama_cpp_itself(
    case: str,
    kind: str,
    agrees: bool,
    runtime: None,
    engine: None,
    tokenizers: dict[str, Path],
    tmp_path: Path,
) -> None:
    """Ids, logits and greedy completions; what is warned about is wrong there and nothing else is."""
    model: ModelConfig = replace(CASES.get(case, GEMMA_PERIOD), vocab_size=800, max_position_embeddings=256)
    tensors = stored_in(tmp_path / "ours", tensors_of(shaken(initialized(model))))
    ours = load_tokenizer(tokenizers[kind])
    ids = special_ids(ours, "eos")
    directory = export(tmp_path / "hf", model, tensors, bos_id=ids.bos, eos_id=ids.eos, pad_id=ids.pad)
    write_tokenizer(directory, tokenizers[kind], document_start="eos", max_length=256)
    theirs = loaded(directory, model)
    prompts = [[ours.eos_id, *ours.encode(text)] for text in TEXTS[:3]]
    convert_to_gguf(directory, tmp_path / "model.gguf", INSTALLED)
    found = ask(tmp_path / "model.gguf", INSTALLED, texts=[*TEXTS, NOT_NFC], prompts=prompts, length=8)
    with torch.no_grad():
        expected = theirs(torch.tensor([prompts[0]])).logits[0]
    difference = (torch.tensor(found.logits) - expected).abs().max().item()
    same_ids = sum(a == ours.encode(text) for a, text in zip(found.ids[:-1], TEXTS, strict=True))
    largest = expected.abs().max().item()
    print(f"{case}, {kind}: {same_ids} of {len(TEXTS)} ids, logits {difference:.1e} of {largest:.1f}")
    assert len(TEXTS) == 40 and (same_ids == 40) is (kind == "bpe")
    assert found.ids[-1] != ours.encode(NOT_NFC)
    assert (difference < BOUND * largest) is agrees
    assert (found.greedy == [greedy(theirs, prompt, 8) for prompt in prompts]) is agrees
