"""Loading the same weights by two programs, in turns."""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from recipes.parallel import cpu_stand_in

if not torch.cuda.is_available():
    cpu_stand_in.install()

from transformers import LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from benchmarks.measure.completion import random_llama
from benchmarks.records import record
from recipes.checkpoint.convert import convert
from recipes.checkpoint.open import open_stored_model
from recipes.checkpoint.stored.fill import load_weights
from recipes.config.hydra_app import compose
from recipes.config.schema import PretrainConfig
from recipes.config.world import World
from recipes.data.tokenizer.train_byte_bpe import train_byte_bpe
from recipes.inference.text_model import build_for_inference
from recipes.parallel.setup import device_of, resolve_dtype, set_cpu_threads

NEMO, HUGGING_FACE = "model.nemo", "huggingface"


def write_models(config: PretrainConfig, directory: Path) -> None:
    """The same random bf16 weights in both forms."""
    llama = random_llama(config, "bf16")
    llama.save_pretrained(directory / HUGGING_FACE)
    for name, content in train_byte_bpe(iter(["a b"]), 259).items():
        (directory / HUGGING_FACE / name).write_bytes(content)
    del llama
    gc.collect()
    torch.cuda.empty_cache()
    convert(directory / HUGGING_FACE, directory / NEMO, "nemo")


def load_ours(directory: Path, precision: str) -> Any:
    """As load_text_model, without its tokenizer."""
    with open_stored_model(directory / NEMO) as source:
        gpt = build_for_inference(source.model, precision)
        load_weights(source, gpt)
    return gpt


def load_theirs(directory: Path, precision: str) -> Any:
    """transformers' own way."""
    llama = LlamaForCausalLM.from_pretrained(
        directory / HUGGING_FACE, dtype=resolve_dtype(precision), device_map={"": device_of(World())}
    )
    return llama.eval()


def drop_from_page_cache(directory: Path) -> None:
    """Makes the next reader wait for the disk."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(load: Callable[[Path, str], Any], directory: Path, precision: str) -> tuple[float, int]:
    """Seconds, and the model's bytes."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    model = load(directory, precision)
    for parameter in model.parameters():  # Mapped files have not been read before their pages are touched.
        parameter.detach().view(-1)[:: 4096 // parameter.itemsize].sum().item()
    seconds = time.perf_counter() - started
    size = sum(parameter.nbytes for parameter in model.parameters())
    del model
    gc.collect()
    torch.cuda.empty_cache()
    return seconds, size


def run(options: argparse.Namespace) -> None:
    """Writes the files if they are not there yet, then loads them in turns."""
    config = compose("pretrain", options.overrides)
    set_cpu_threads(None, World())
    disable_progress_bar()
    with TemporaryDirectory() as temporary:
        directory = options.data or Path(temporary)
        if not (directory / NEMO).exists():
            directory.mkdir(parents=True, exist_ok=True)
            write_models(config, directory)
        measure(directory, options)


def measure(directory: Path, options: argparse.Namespace) -> None:
    """Prints a line for each program, and the ratio of their times."""
    loads = {"ours": load_ours, "transformers": load_theirs}
    found: dict[str, list[tuple[float, int]]] = {who: [] for who in loads}
    for _ in range(options.turns):
        for who, load in loads.items():
            if options.cold:
                drop_from_page_cache(directory)
            found[who].append(timed(load, directory, options.precision))
    best = {}
    for who, turns in found.items():
        best[who], size = min(turns)
        rate = size / best[who] / 1e9
        print(f"{who:<14}{best[who]:8.2f} s  {size / 1e9:6.2f} GB  {rate:6.2f} GB/s", flush=True)
        record(options.json, who=who, seconds=best[who], gb_per_second=rate)
    ratio = best["ours"] / best["transformers"]
    print(f"{'ratio':<14}{ratio:8.2f}")
    record(options.json, who="ratio", against="transformers", ours_over_theirs=ratio)
