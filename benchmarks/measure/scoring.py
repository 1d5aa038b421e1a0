"""Requests of lm-eval, scored by the project's model and by HFLM."""

from __future__ import annotations

import argparse
import gc
import time
from typing import Any

import torch

from recipes.parallel import cpu_stand_in

if not torch.cuda.is_available():
    cpu_stand_in.install()

from benchmarks.measure.completion import random_llama, random_text_model
from benchmarks.records import record
from recipes.config.hydra_app import compose
from recipes.evaluation.lm import ParamLM

Request = tuple[tuple[str, str], list[int], list[int]]


def requests(documents: int, length: int, vocabulary: int) -> list[Request]:
    """Contexts of different lengths, ``length`` on the average, and continuations of 8 tokens."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(documents):
        size = length // 2 + int(torch.randint(length, (), generator=generator))
        ids = torch.randint(10, vocabulary - 10, (size + 8,), generator=generator).tolist()
        found.append(((str(number), ""), ids[:size], ids[size:]))
    return found


def hflm(llama: Any, batch_size: int) -> Any:
    """lm-eval's model around a transformers one, with a tokenizer that is never asked for a text."""
    from lm_eval.models.huggingface import HFLM
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    return HFLM(pretrained=llama, tokenizer=tokenizer, batch_size=batch_size, device=str(llama.device))


def measure(who: str, lm: Any, asked: list[Request], options: argparse.Namespace) -> float:
    """Prints documents and tokens per second; returns the former."""
    lm._loglikelihood_tokens(asked[: max(1, len(asked) // 4)], disable_tqdm=True)
    torch.cuda.synchronize()
    started = time.perf_counter()
    answers = lm._loglikelihood_tokens(asked, disable_tqdm=True)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    assert len(answers) == len(asked)
    rate, tokens = len(asked) / seconds, sum(len(context) + len(rest) for _, context, rest in asked)
    print(f"{who:<12}{rate:10.1f} documents/s {tokens / seconds:12,.0f} tokens/s", flush=True)
    record(options.json, who=who, documents_per_second=rate, tokens_per_second=tokens / seconds)
    return rate


def run(options: argparse.Namespace) -> None:
    """Measures one after the other and prints the ratio."""
    config = compose("pretrain", options.overrides)
    asked = requests(options.documents, options.length, config.model.vocab_size)
    ours = ParamLM(random_text_model(config.model, options.precision), options.batch_tokens)
    rates = [measure("ours", ours, asked, options)]
    del ours
    gc.collect()
    torch.cuda.empty_cache()
    longest = options.length * 3 // 2 + 8
    theirs = hflm(random_llama(config, options.precision), max(1, options.batch_tokens // longest))
    rates.append(measure("HFLM", theirs, asked, options))
    print(f"{'ratio':<12}{rates[0] / rates[1]:10.3f}")
    record(options.json, who="ratio", against="HFLM", ours_over_theirs=rates[0] / rates[1])
