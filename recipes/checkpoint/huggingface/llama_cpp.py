"""What llama.cpp makes of an exported directory, where that is not what transformers makes of it.

Read off llama.cpp's convert_hf_to_gguf.py and runtime as they come with llama-cpp-python 0.3.36;
tests/checkpoint/huggingface/test_llama_cpp.py runs both where they are installed. Neither complains where it
computes something else.
"""

from __future__ import annotations

from collections.abc import Mapping

from recipes.checkpoint.huggingface.chat import SETTINGS
from recipes.checkpoint.huggingface.config import architecture_of
from recipes.checkpoint.huggingface.tokenizer import adds_prefix_space, is_unigram
from recipes.data.tokenizer.file_names import TOKENIZER_MODEL
from recipes.data.tokenizer.special_tokens import json_object
from recipes.families.family import Architecture
from recipes.families.gemma3 import GEMMA3
from recipes.families.llama import GLM4_MOE, LLAMA, MISTRAL, MIXTRAL, QWEN3, QWEN3_MOE
from recipes.families.model_config import ModelConfig, window_pattern

GEMMAS_PERIOD = 6
"""Of Gemma's layers every sixth sees everything, whatever the configuration says."""
OBEYS_THE_SETTINGS = (LLAMA, MISTRAL, MIXTRAL)
"""Classes for which the converter asks tokenizer_config.json for add_prefix_space."""
ALWAYS_PREFIXED = {QWEN3: True, QWEN3_MOE: True, GEMMA3: False}
"""Whether it puts a space before every text for other classes."""


def llama_cpp_warnings(
    model: ModelConfig, tokenizer: Mapping[str, bytes], layout: str | None = None
) -> list[str]:
    """One line for each thing that llama.cpp refuses or gets wrong; [] where it computes the same.

    Args:
        tokenizer: the files of the exported tokenizer, by name.
    """
    architecture = architecture_of(model, layout)
    name = architecture.name
    if architecture.remote_code is not None:
        return [f"llama.cpp has no {name} and cannot convert this model; transformers runs it"]
    if architecture == GLM4_MOE:
        return [f"llama.cpp converts a {name} with GLM's own tokenizer only; transformers runs this one"]
    warnings = _about_windows(model, name)
    if not tokenizer:
        return warnings
    if TOKENIZER_MODEL not in tokenizer:
        return [
            *warnings,
            "llama.cpp knows tokenizers without tokenizer.model by a hash of their ids: its converter refuses"
            " newly trained ones (BPE pre-tokenizer was not recognized); --type bpe trains one for it",
        ]
    return warnings + _about_sentencepiece(tokenizer, architecture)


def _about_windows(model: ModelConfig, name: str) -> list[str]:
    size = model.window_size
    if name == MISTRAL.name:
        return [f"llama.cpp ignores the window of a {name}: texts of more than {size} tokens go wrong"]
    if name == GEMMA3.name:
        fixed = [bool((layer + 1) % GEMMAS_PERIOD) for layer in range(model.num_layers)]
        if [window is not None for window in window_pattern(model)] != fixed:
            pattern = model.window_pattern or "L"
            return [f"llama.cpp computes a {name} with windows as in SSSSSL, not {pattern}: it goes wrong"]
    return []


def _about_sentencepiece(tokenizer: Mapping[str, bytes], architecture: Architecture) -> list[str]:
    content = tokenizer[TOKENIZER_MODEL]
    warnings = []
    if is_unigram(content):
        warnings.append(
            "llama.cpp merges the pieces of a unigram tokenizer by score and does not look for the likeliest "
            "segmentation: it gives other ids for many texts; train with --type bpe for it"
        )
    wanted = adds_prefix_space(content)
    found = ALWAYS_PREFIXED.get(architecture, wanted)
    if architecture in OBEYS_THE_SETTINGS:
        found = json_object(tokenizer.get(SETTINGS, b"{}"), SETTINGS).get("add_prefix_space", True)
    if found != wanted:
        does = "puts a space before every text" if found else "puts no space before a text"
        warnings.append(f"llama.cpp {does} for a {architecture.name}, unlike this tokenizer")
    return warnings
