"""The two sides of the comparison."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from recipes.parallel import cpu_stand_in

if not torch.cuda.is_available():
    cpu_stand_in.install()

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer, LlamaForCausalLM

from benchmarks.measure.scoring_documents import NEW_TOKENS, STOP_STRINGS, Document, documents
from benchmarks.measure.scoring_orders import HFLM as THEIRS
from benchmarks.measure.scoring_orders import OURS, Answers, Measured, Order, Settings
from recipes.config.world import World, launched_world
from recipes.evaluation.lm import ParamLM
from recipes.evaluation.ranks import model_ranks
from recipes.evaluation.work import Work
from recipes.inference.text_model import load_text_model
from recipes.parallel.setup import device_of, resolve_dtype, set_cpu_threads


class Side:
    """Answers documents as lm-eval would have it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def lm(self, batch: int) -> Any:
        """lm-eval's model, for batches of this size."""
        raise NotImplementedError

    def run(self, order: Order) -> Measured:
        asked = documents(order.kind, order.last, self.settings.vocabulary)[order.first :]
        lm = self.lm(order.batch)
        _forget_peak()
        torch.cuda.synchronize()
        cpu, clock = time.process_time(), time.perf_counter()
        answers = _answers(lm, asked)
        torch.cuda.synchronize()
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
        return Measured(
            cpu,
            clock,
            getattr(lm, "search_cpu_s", 0.0),
            getattr(lm, "found", order.batch),
            _peak(),
            answers,
        )


class Ours(Side):
    """Evaluation's; launched several times, the processes share the documents."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        world = launched_world()
        model = load_text_model(
            str(settings.weights), precision=settings.precision, num_threads=settings.threads, world=world
        )
        self.model, self.ranks = model, model_ranks()

    def lm(self, batch: int) -> ParamLM:
        return ParamLM(self.model, self.settings.batch_tokens, work=Work(self.ranks))


class Theirs(Side):
    """lm-eval's own model around transformers'."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        set_cpu_threads(settings.threads, World())
        self.llama = LlamaForCausalLM.from_pretrained(
            settings.weights, dtype=resolve_dtype(settings.precision), device_map={"": device_of(World())}
        ).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(settings.weights)

    def lm(self, batch: int) -> HFLM:
        return TimedHFLM(
            pretrained=self.llama,
            tokenizer=self.tokenizer,
            batch_size=batch or "auto",
            device=str(self.llama.device),
        )


class TimedHFLM(HFLM):
    """Notes what its search for the size of batches took, and found last."""

    search_cpu_s = 0.0

    def _detect_batch_size(self, requests: Any = None, pos: int = 0) -> int:
        started = time.process_time()
        self.found: int = super()._detect_batch_size(requests, pos)
        self.search_cpu_s += time.process_time() - started
        return self.found


def _answers(lm: Any, asked: Sequence[Document]) -> Answers:
    if asked[0].choices:
        requests = [
            ((f"{number}", f"{choice}"), document.context, choice)
            for number, document in enumerate(asked)
            for choice in document.choices
        ]
        answers: Answers = lm._loglikelihood_tokens(requests, disable_tqdm=True)
        return answers
    settings = {"until": STOP_STRINGS, "max_gen_toks": NEW_TOKENS, "do_sample": False}
    instances = [
        Instance("generate_until", {}, (" ".join(map(str, document.context)), dict(settings)), number)
        for number, document in enumerate(asked)
    ]
    texts: Answers = lm.generate_until(instances, disable_tqdm=True)
    return texts


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


SIDES: dict[str, type[Side]] = {OURS: Ours, THEIRS: Theirs}
