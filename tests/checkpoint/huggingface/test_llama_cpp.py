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
]
RUNTIME = """
import json, sys
import llama_cpp, numpy
case = json.load(sys.stdin)
fp32 = llama_cpp.GGML_TYPE_F32  # Keys and values are kept in fp16 unless it is told otherwise.
model = llama_cpp.Llama(
    case["gguf"], n_ctx=256, logits_all=True, verbose=False, n_threads=1, type_k=fp32, type_v=fp32
)
ids = [model.tokenize(text.encode(), add_bos=False, special=False) for text in case["texts"]]
greedy = []
for prompt in case["prompts"]:
    model.reset()
    found = []
    for token in model.generate(prompt, temp=0.0, repeat_penalty=1.0):
        found.append(token)
        if len(found) == case["length"]:
            break
    greedy.append(found)
model.reset()
model.eval(case["prompts"][0])
logits = numpy.array(model.scores[: len(case["prompts"][0])]).tolist()
json.dump({"ids": ids, "greedy": greedy, "logits": logits}, sys.stdout)
"""
CONVERTER = Path(os.environ.get("LLAMA_CPP_DIR", "")) / "convert_hf_to_gguf.py"
PYTHON = os.environ.get("LLAMA_CPP_PYTHON", sys.executable)


@pytest.fixture(scope="module")
def runtime() -> None:
    """Skips where llama.cpp is not there."""
    if "LLAMA_CPP_DIR" not in os.environ or not CONVERTER.is_file():
        pytest.skip("LLAMA_CPP_DIR names no llama.cpp sources with convert_hf_to_gguf.py")
    if subprocess.run([PYTHON, "-c", "import llama_cpp"], capture_output=True).returncode:
        pytest.skip(f"{PYTHON} has no llama-cpp-python (pip install llama-cpp-python)")


@pytest.fixture(scope="module")
def engine() -> Iterator[None]:
    with process_groups():
        yield


def converted(directory: Path) -> Path:
    """The export as llama.cpp's own converter writes it, numbers in fp32."""
    target = directory.with_suffix(".gguf")
    line = [sys.executable, str(CONVERTER), str(directory), "--outfile", str(target), "--outtype", "f32"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return target


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
    question = {"gguf": str(converted(directory)), "texts": TEXTS, "prompts": prompts, "length": 8}
    done = subprocess.run([PYTHON, "-c", RUNTIME], input=json.dumps(question), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    with torch.no_grad():
        expected = theirs(torch.tensor([prompts[0]])).logits[0]
    difference = (torch.tensor(found["logits"]) - expected).abs().max().item()
    same_ids = sum(a == ours.encode(text) for a, text in zip(found["ids"], TEXTS, strict=True))
    largest = expected.abs().max().item()
    print(f"{case}, {kind}: {same_ids} of {len(TEXTS)} ids, logits {difference:.1e} of {largest:.1f}")
    assert (difference < 2e-3 * largest) is agrees  # ggml looks up Gemma's GELU in a table of fp16.
    assert (same_ids == len(TEXTS)) is (kind == "bpe")
    if agrees:
        for prompt, completion in zip(prompts, found["greedy"], strict=True):
            text = torch.tensor([prompt])
            with torch.no_grad():
                for _ in range(8):
                    text = torch.cat([text, theirs(text).logits[:, -1:].argmax(-1)], dim=1)
            assert completion == text[0, len(prompt) :].tolist()
