"""The model in llama.cpp: its converter and runtime run on the exported folder, where they are at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recipes.checkpoint.huggingface.export import TOKENIZER_FILES
from recipes.checkpoint.huggingface.llama_cpp import llama_cpp_warnings
from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.release.card import LlamaCppFacts


@dataclass(frozen=True)
class LlamaCpp:
    """Where it is installed."""

    sources: Path
    """With convert_hf_to_gguf.py."""
    python: str
    """A Python that has llama-cpp-python."""


def try_llama_cpp(
    stored: StoredModel, directory: Path, prompt: str, installed: LlamaCpp | None
) -> LlamaCppFacts:
    """What the card says about llama.cpp."""
    tokenizer = {
        name: (directory / name).read_bytes() for name in TOKENIZER_FILES if (directory / name).exists()
    }
    refusals = llama_cpp_warnings(stored.model, tokenizer)
    return LlamaCppFacts(refusals)
