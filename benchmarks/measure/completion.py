"""Greedy completion with random weights, ours and transformers', against the memory's bandwidth."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from recipes.parallel import cpu_stand_in

if not torch.cuda.is_available():
    cpu_stand_in.install()

from benchmarks.measure.bandwidth import memory_bandwidth
from benchmarks.measure.described import described
from benchmarks.measure.llama import llama_config
from benchmarks.measure.products import measure_products
from benchmarks.records import record
from recipes.config.schema import PretrainConfig
from recipes.config.world import World
from recipes.data.tokenizer import TextTokenizer
from recipes.families.model_config import ModelConfig, kv_channels, num_query_groups
from recipes.inference.decode.forward import LeanDecoder
from recipes.inference.engine import Engine, in_order
from recipes.inference.requests import Request, Sampling
from recipes.inference.text_model import GPTTextModel, build_for_inference
from recipes.parallel.setup import device_of, resolve_dtype


class NumberTokenizer(TextTokenizer):
    """Ids without text: random weights have nothing to say, and no vocabulary file is needed."""

    name, sha256 = "numbers", ""
    bos_id, eos_id, unk_id, pad_id = 1, 2, 0, None

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    def encode_batch(self, texts: Sequence[str]) -> Any:
        raise NotImplementedError("benchmarks give ids")

    def id_to_piece(self, token: int) -> str:
        return str(token)

    def special_tokens(self) -> dict[str, int]:
        return {}

    def spans(self, text: str) -> Any:
        raise NotImplementedError("benchmarks give ids")

    def _decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


@torch.no_grad()
def random_text_model(model: ModelConfig, precision: str) -> GPTTextModel:
    """The model on the device, its weights drawn there."""
    gpt = build_for_inference(model, precision)
    for parameter in gpt.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, 0.02)
        else:
            parameter.fill_(1.0)
    return GPTTextModel(
        gpt,
        NumberTokenizer(model.vocab_size),
        name="random",
        max_sequence_length=model.max_position_embeddings,
        document_start_id=None,
    )


@torch.no_grad()
def random_llama(config: PretrainConfig, precision: str) -> Any:
    """transformers' Llama of the same shapes on the device, its weights drawn there."""
    from transformers import LlamaForCausalLM

    shapes = llama_config(config.model, pad_token_id=0, eos_token_id=None)
    before = torch.get_default_dtype()
    torch.set_default_dtype(resolve_dtype(precision))
    try:
        with device_of(World()):
            llama = LlamaForCausalLM(shapes)
    finally:
        torch.set_default_dtype(before)
    llama.generation_config.eos_token_id = None
    return llama.eval()


class Ours:
    """The engine for one size of batch, kept between generations: it captures its graphs once."""

    def __init__(self, model: GPTTextModel, batch: int, max_length: int) -> None:
        self.model, self.batch = model, batch
        self.engine = Engine(model, slots=batch, max_length=max_length)

    def seconds(self, batch: int, length: int, new: int) -> float:
        """One greedy generation of ``new`` tokens for each of ``batch`` prompts."""
        prompts = torch.randint(10, self.model.vocab_size - 10, (batch, length)).tolist()
        requests = [Request(tuple(prompt), new, sampling=Sampling(greedy=True)) for prompt in prompts]
        torch.cuda.synchronize()
        started = time.perf_counter()
        results = list(in_order(self.engine, requests))
        seconds = time.perf_counter() - started
        assert all(len(result.token_ids) == new for result in results)
        return seconds

    @property
    def capture_seconds(self) -> float | None:
        """Compiling kernels and capturing graphs; None: there are none."""
        return getattr(self.engine.stepper, "capture_seconds", None)


@torch.no_grad()
def llama_seconds(llama: Any, batch: int, length: int, new: int, cache: str | None) -> float:
    """The same of transformers' generate."""
    rows = torch.randint(10, llama.config.vocab_size - 10, (batch, length), device=llama.device)
    settings: dict[str, Any] = {"do_sample": False, "min_new_tokens": new, "max_new_tokens": new}
    if cache is not None:
        settings["cache_implementation"] = cache
    torch.cuda.synchronize()
    started = time.perf_counter()
    out = llama.generate(rows, attention_mask=torch.ones_like(rows), **settings)
    torch.cuda.synchronize()
    assert out.shape == (batch, length + new)
    return time.perf_counter() - started


def weight_bytes(model: GPTTextModel) -> int:
    """Of the weights that every new token needs: all but tables that only look input tokens up."""
    tied = model.gpt.share_embeddings_and_output_weights
    tables = ("value_embedding.weight",) if tied else ("value_embedding.weight", "word_embeddings.weight")
    return sum(
        parameter.nbytes for name, parameter in model.gpt.named_parameters() if not name.endswith(tables)
    )


def cache_bytes(config: PretrainConfig, precision: str, tokens: int) -> int:
    """Of the keys and values of so many tokens."""
    model = config.model
    width = num_query_groups(model) * kv_channels(model)
    return 2 * model.num_layers * width * tokens * resolve_dtype(precision).itemsize


def measure(
    who: str,
    generate: Callable[[int, int, int], float],
    options: argparse.Namespace,
    batch: int,
    token_bytes: int | None,
) -> None:
    """Prints a line: time to the first token, tokens per second after it, share of the memory's bandwidth.

    ``token_bytes``: what has to be read for each token; None: not known.
    """
    length, new = options.prompt, options.new
    for _ in range(options.warm_up):
        generate(batch, length, new)
    first = min(generate(batch, length, 1) for _ in range(3))
    seconds = min(generate(batch, length, new) for _ in range(2))
    per_token = (seconds - first) / (new - 1)
    bandwidth = memory_bandwidth()
    limit = None
    if bandwidth and token_bytes:
        limit = token_bytes / bandwidth
    line = f"{who:<28}batch {batch:>3}  first token {1000 * first:8.1f} ms"
    line += f"  then {1000 * per_token:7.2f} ms per token  {batch / per_token:10,.0f} tokens/s"
    print(line + (f"  {100 * limit / per_token:5.1f} % of the bandwidth" if limit else ""), flush=True)
    record(
        options.json,
        who=who,
        batch=batch,
        first_token_ms=1000 * first,
        ms_per_token=1000 * per_token,
        tokens_per_second=batch / per_token,
        limit_ms=1000 * limit if limit else None,
        bandwidth_percent=100 * limit / per_token if limit else None,
    )


def run(options: argparse.Namespace) -> None:
    """Measures one after the other."""
    config = described(options)
    model = random_text_model(config.model, options.precision)
    weights = weight_bytes(model)

    def token_bytes(batch: int) -> int | None:
        if config.model.num_moe_experts is not None:
            return None  # Which experts are read depends on the tokens.
        read = batch * (options.prompt + options.new // 2)
        return weights + cache_bytes(config, options.precision, read)

    for batch in options.batches:
        ours = Ours(model, batch, options.prompt + options.new)
        measure("ours", ours.seconds, options, batch, token_bytes(batch))
        if (capture := ours.capture_seconds) is not None:
            print(f"{'':<28}graphs captured in {capture:.1f} s, kernels compiled in it", flush=True)
            record(options.json, who="ours", batch=batch, capture_seconds=capture)
        decoder = ours.engine.decoder
        if isinstance(decoder, LeanDecoder) and decoder.fused is not None:
            measure_products(decoder.weights, batch, options.json)
        del ours
    del model
    gc.collect()
    torch.cuda.empty_cache()
    if options.against == "nothing":
        return
    llama = random_llama(config, options.precision)
    caches = [None, "static"] if torch.cuda.is_available() else [None]
    for cache in caches:  # The static one is compiled, and may take long.
        who = "transformers" + (f", {cache} cache" if cache else "")
        for batch in options.batches:
            generate = partial(llama_seconds, llama, cache=cache)
            measure(who, generate, options, batch, token_bytes(batch))
