"""A server process, and clients that send completions to it."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from benchmarks.measure.described import described
from benchmarks.measure.load_time import NEMO, write_models
from benchmarks.records import record
from recipes.errors import UserError


@dataclass(frozen=True)
class Answers:
    """What a number of clients got."""

    tokens_per_second: float
    first_token_s: float
    """The median."""


@contextmanager
def served(model: Path, options: argparse.Namespace) -> Iterator[str]:
    """The address of a server that is stopped at the end."""
    command = [sys.executable, "-m", "recipes.generate", f"gpt_model_file={model}", "server=true", "port=0"]
    command += [
        f"batch_size={options.clients}",
        f"precision={options.precision}",
        f"serving.max_length={options.prompt + options.new}",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"at (http://\S+)", process.stdout.readline())
            if found is None:
                raise UserError(f"the server did not start: {' '.join(command)}")
            yield found[1]
        finally:
            process.terminate()


async def complete(client: httpx.AsyncClient, prompt: list[int], new: int) -> tuple[int, float]:
    """One streamed completion: its tokens, and the seconds to the first of them."""
    body = {
        "model": Path(NEMO).stem,
        "prompt": prompt,
        "max_tokens": new,
        "min_tokens": new,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": 0,  # With them every token is sent, also one without text.
    }
    begun, first, tokens = time.perf_counter(), 0.0, 0
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                first = first or time.perf_counter() - begun
                usage = json.loads(line[len("data: ") :])["usage"]
                tokens = usage["completion_tokens"] if usage else 0
    return tokens, first


async def load(url: str, clients: int, options: argparse.Namespace) -> Answers:
    """So many clients at once, each with its requests one after another."""
    generator = random.Random(clients)
    prompts = [
        [[generator.randrange(3, 250) for _ in range(options.prompt)] for _ in range(options.requests)]
        for _ in range(clients)
    ]
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:

        async def one(mine: list[list[int]]) -> list[tuple[int, float]]:
            return [await complete(client, prompt, options.new) for prompt in mine]

        begun = time.perf_counter()
        answers = [answer for found in await asyncio.gather(*map(one, prompts)) for answer in found]
        seconds = time.perf_counter() - begun
    tokens, firsts = zip(*answers, strict=True)
    assert sum(tokens) == clients * options.requests * options.new
    return Answers(sum(tokens) / seconds, statistics.median(firsts))


def run(options: argparse.Namespace) -> None:
    """Measures one client, all of them, and one client again."""
    config = described(options)
    with TemporaryDirectory() as directory:
        write_models(config, Path(directory))
        with served(Path(directory, NEMO), options) as url:
            for clients in (1, options.clients):  # Whatever is compiled or recorded for a batch's size.
                asyncio.run(load(url, clients, options))
            found = []
            for clients in (1, options.clients, 1):
                answers = asyncio.run(load(url, clients, options))
                found.append(answers.tokens_per_second)
                print(
                    f"{clients:>3} clients  {answers.tokens_per_second:10,.1f} tokens/s  first token after "
                    f"{1000 * answers.first_token_s:8.1f} ms",
                    flush=True,
                )
                record(
                    options.json,
                    who="server",
                    clients=clients,
                    tokens_per_second=answers.tokens_per_second,
                    first_token_ms=1000 * answers.first_token_s,
                )
    one = max(found[0], found[2])
    print(f"{options.clients} clients together over one alone: {found[1] / one:.2f}")
