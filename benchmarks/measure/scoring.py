"""Orders to the sides of the comparison, in turns, and what comes of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.measure.completion import random_llama
from benchmarks.measure.scoring_documents import Document, documents
from benchmarks.measure.scoring_orders import AUTO, HFLM, OURS, Measured, Order, Process, Settings
from benchmarks.measure.scoring_totals import differences, seconds, together
from benchmarks.records import record
from recipes.config.hydra_app import compose
from recipes.config.schema import PretrainConfig

WEIGHTS, MEASURED = "weights", "measured.jsonl"
SEVERAL = "ours, several processes"


def write_weights(config: PretrainConfig, precision: str, directory: Path) -> None:
    """A Hugging Face directory with random weights, and a tokenizer whose words are numbers."""
    llama = random_llama(config, precision)
    llama.config.bos_token_id, llama.config.eos_token_id = None, 2
    llama.save_pretrained(directory)
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{str(i): i for i in range(3, config.model.vocab_size)}}
    words = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", ignore_merges=True))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(directory)


class Kept:
    """What was measured, in a file, so that an interrupted measurement goes on."""

    def __init__(self, path: Path, sides: dict[str, Process], identity: str) -> None:
        self.path, self.sides, self.identity = path, sides, identity
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        self.known = {key: Measured(**measured) for key, measured in map(json.loads, lines)}

    def run(self, who: str, order: Order) -> Measured:
        """Measures what is not known yet."""
        key = f"{self.identity} {who} {order}"
        if key not in self.known:
            self.known[key] = self.sides[who].run(order)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, asdict(self.known[key])]) + "\n")
        return self.known[key]


def run(options: argparse.Namespace) -> None:
    """Measures kind after kind."""
    config = compose("pretrain", options.overrides)
    with TemporaryDirectory() as temporary, ExitStack() as stack:
        out = options.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        weights = out / WEIGHTS
        if not (weights / "tokenizer.json").exists():
            write_weights(config, options.precision, weights)
        settings = Settings(
            weights, options.precision, options.threads, options.batch_tokens, config.model.vocab_size
        )
        sides = {OURS: Process(OURS, settings), HFLM: Process(HFLM, settings)}
        if options.processes:
            sides[SEVERAL] = Process(OURS, settings, options.processes)
        for side in sides.values():
            stack.enter_context(side)
        kept = Kept(out / MEASURED, sides, str(settings))
        for kind in options.kinds:
            compare(kind, kept, options, config.model.vocab_size)


def compare(kind: str, kept: Kept, options: argparse.Namespace, vocabulary: int) -> None:
    """All sides on all documents of a kind, slice by slice."""
    size = best_size(kind, kept, options)
    first, end = options.after, options.after + options.documents
    bounds = [first + options.documents * i // options.slices for i in range(options.slices + 1)]
    slices = list(pairwise(bounds))
    found: dict[str, list[Measured]] = {who: [] for who in kept.sides}
    for turn, (start, last) in enumerate(slices):
        for who in list(found)[:: 1 if turn % 2 else -1]:
            found[who].append(kept.run(who, Order(kind, start, last, size if who == HFLM else AUTO)))
            done = f"{last - first:,} of {options.documents:,}"
            print(f"{kind:<12}{who:<25}{done:>14}  {found[who][-1].cpu_s:8.1f} s CPU", flush=True)
    totals = {who: together(parts) for who, parts in found.items()}
    for who, total in totals.items():
        show(options, kind, who, total)
    ratio(options, kind, totals[HFLM], totals[OURS], documents(kind, end, vocabulary)[first:])
    if SEVERAL in totals:
        faster = seconds(totals[OURS]) / seconds(totals[SEVERAL])
        assert totals[SEVERAL].answers == totals[OURS].answers
        print(f"{kind:<12}{options.processes} processes are {faster:.2f} times as fast, with equal answers")
        record(options.json, kind=kind, who=SEVERAL, processes=options.processes, times_as_fast=faster)
    if options.auto:
        auto = kept.run(HFLM, Order(kind, first, end, AUTO))
        show(options, kind, f"HFLM, auto ({auto.batch})", auto)
        print(f"{kind:<12}of which its search for the size took {auto.search_cpu_s:.1f} s CPU", flush=True)


def best_size(kind: str, kept: Kept, options: argparse.Namespace) -> int:
    """HFLM's fastest size of batches on the first documents."""
    sizes: tuple[int, ...] = options.batches
    if len(sizes) == 1:
        return sizes[0]
    tried = {}
    first, end = options.after, options.after + min(options.trial, options.documents)
    for size in sizes:
        measured = kept.run(HFLM, Order(kind, first, end, size))
        tried[size] = seconds(measured)
        print(f"{kind:<12}HFLM, batches of {size:<7}{tried[size]:8.1f} s for {options.trial:,}", flush=True)
        record(options.json, kind=kind, who=f"HFLM, batches of {size}", trial_seconds=tried[size])
    return min(tried, key=lambda size: tried[size])


def show(options: argparse.Namespace, kind: str, who: str, total: Measured) -> None:
    """A line about one side."""
    if who == HFLM:
        who = f"HFLM, batches of {total.batch}"
    rate = options.documents / seconds(total)
    print(
        f"{kind:<12}{who:<25}{rate:8.2f} documents/s  {total.cpu_s:8.1f} s CPU  {total.clock_s:8.1f} s  "
        f"{total.memory / 2**30:6.2f} GiB",
        flush=True,
    )
    record(
        options.json,
        kind=kind,
        who=who,
        documents=options.documents,
        documents_per_second=rate,
        cpu_seconds=total.cpu_s,
        clock_seconds=total.clock_s,
        peak_memory_bytes=total.memory,
    )


def ratio(
    options: argparse.Namespace, kind: str, theirs: Measured, ours: Measured, asked: Sequence[Document]
) -> None:
    """How many times as fast ours is, and how far the answers are apart."""
    times = seconds(theirs) / seconds(ours)
    memory = ours.memory / theirs.memory
    apart = differences(ours.answers, theirs.answers, asked)
    print(
        f"{kind:<12}ours is {times:.2f} times as fast, with {memory:.2f} of the memory; {apart}", flush=True
    )
    record(options.json, kind=kind, who="ratio", times_as_fast=times, memory=memory, answers=apart)
