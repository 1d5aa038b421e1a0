"""The model in llama.cpp: its converter and runtime run on the exported folder, where they are at hand."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from recipes.checkpoint.huggingface.export import TOKENIZER_FILES
from recipes.checkpoint.huggingface.llama_cpp import llama_cpp_warnings
from recipes.checkpoint.huggingface.tokenizer import PROBES
from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.console import say
from recipes.data.samples.document_start import document_start_id
from recipes.errors import UserError
from recipes.inference.second_reading import transformers_logits
from recipes.release.card import LlamaCppFacts

CONVERTER = "convert_hf_to_gguf.py"
BOUND = 2e-3
"""Of the largest logit: ggml looks up some functions in tables of fp16."""
CONTEXT, THREADS = 256, 2
PATIENCE_S = 3600


@dataclass(frozen=True)
class LlamaCpp:
    """Where it is installed."""

    sources: Path
    """With convert_hf_to_gguf.py."""
    python: str = sys.executable
    """A Python that has llama-cpp-python."""


@dataclass(frozen=True)
class Answers:
    """What llama.cpp computes."""

    ids: list[list[int]]
    """Of each text, without a leading token."""
    greedy: list[list[int]]
    """The continuation of each prompt."""
    logits: list[list[float]]
    """Of the first prompt, for every position."""
    text: str
    """The first text's completion, with everything as llama-cpp-python chooses it."""
    version: str
    """llama-cpp-python's."""


def convert_to_gguf(directory: Path, gguf: Path, installed: LlamaCpp) -> None:
    """Runs llama.cpp's converter on a Hugging Face directory, numbers in fp32.

    Raises:
        UserError: it fails.
    """
    converter, directory, gguf = (
        (installed.sources / CONVERTER).absolute(),
        directory.absolute(),
        gguf.absolute(),
    )
    _run(
        [sys.executable, str(converter), str(directory), "--outfile", str(gguf), "--outtype", "f32"],
        "",
        gguf.parent,
    )


def ask(
    gguf: Path, installed: LlamaCpp, *, texts: Sequence[str], prompts: Sequence[list[int]], length: int
) -> Answers:
    """Lets llama.cpp encode, compute and complete.

    Args:
        prompts: token ids; ``length`` further ones are asked for.

    Raises:
        UserError: it fails.
    """
    question = {
        "gguf": str(gguf.absolute()),
        "texts": list(texts),
        "prompts": list(prompts),
        "length": length,
        "context": CONTEXT,
        "threads": THREADS,
    }
    # Not as a file: modules that lie beside it would be imported in place of others.
    script = (Path(__file__).parent / "templates" / "ask_llama_cpp.py").read_text(encoding="utf-8")
    return Answers(**json.loads(_run([installed.python, "-c", script], json.dumps(question), gguf.parent)))


def _run(line: list[str], given: str, directory: Path) -> str:
    try:
        done = subprocess.run(
            line, input=given, cwd=directory, capture_output=True, text=True, timeout=PATIENCE_S
        )
    except OSError as error:
        raise UserError(f"{line[0]}: cannot be run: {error.strerror}") from None
    if done.returncode:
        raise UserError(f"llama.cpp: {' '.join(done.stderr.split())[-500:]}")
    return done.stdout


def try_llama_cpp(
    stored: StoredModel, directory: Path, prompts: Sequence[str], installed: LlamaCpp | None
) -> LlamaCppFacts:
    """What the card says about llama.cpp.

    Args:
        stored: the model, opened.
        directory: its Hugging Face form.
        prompts: texts to complete.
        installed: None: it is not run.

    Raises:
        UserError: it computes other logits or ids than transformers.
    """
    tokenizer = {
        name: (directory / name).read_bytes() for name in TOKENIZER_FILES if (directory / name).exists()
    }
    refusals = llama_cpp_warnings(stored.model, tokenizer)
    if refusals or installed is None:
        return LlamaCppFacts(refusals)
    say("check  the same ids and logits from llama.cpp")
    ours = stored.text_tokenizer
    start = document_start_id(stored.document_start, ours)
    ids = [*([] if start is None else [start]), *ours.encode(prompts[0])]
    # It does not compose characters, as the tokenizer does with every text.
    texts = [unicodedata.normalize("NFC", text) for text in (*prompts, *PROBES)]
    gguf = directory.with_name("model.gguf")
    try:
        convert_to_gguf(directory, gguf, installed)
        answers = ask(gguf, installed, texts=texts, prompts=[ids], length=8)
    finally:
        gguf.unlink(missing_ok=True)
    expected = transformers_logits(directory, torch.tensor([ids]))[0]
    difference = (torch.tensor(answers.logits) - expected).abs().max().item()
    largest = expected.abs().max().item()
    if not difference <= BOUND * largest:
        raise UserError(
            f"llama.cpp computes other logits from the exported model, by {difference:.3g}, allowed are "
            f"{BOUND * largest:.3g}; nothing was released"
        )
    for text, found in zip(texts, answers.ids, strict=True):
        if found != ours.encode(text):
            raise UserError(
                f"llama.cpp encodes {text[:40]!r} otherwise than the tokenizer; nothing was released"
            )
    return LlamaCppFacts(
        [],
        f"Both were run for this folder, with llama-cpp-python {answers.version}: {len(texts):,} texts have "
        "the same token ids, and for the first prompt the largest difference of logits to transformers is "
        f"{difference:.2g} (the largest logit is {largest:.3g}). It completes that prompt with "
        f"{json.dumps(answers.text, ensure_ascii=False)}.",
    )
