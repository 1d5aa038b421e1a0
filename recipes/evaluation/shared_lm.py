"""lm-eval on the first of several ranks, which answer its requests together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lm_eval.api.instance import Instance
from megatron.core import parallel_state

from recipes.errors import UserError
from recipes.evaluation.lm import ParamLM, Scored, TokenRequest
from recipes.evaluation.ranks import Ranks, model_ranks
from recipes.evaluation.work import Work
from recipes.inference.text_generator import TextGenerator

T = TypeVar("T")


class SharedLM(ParamLM):
    """Lets all ranks answer what lm-eval, which runs on rank 0 alone, asks; only rank 0 reads the data sets.

    Args:
        ranks: of `ranks_in_training`.
        stop: whether this rank has been told to stop: all ranks then raise
            :class:`~recipes.evaluation.work.Abandoned`, instead of going on.
    """

    def __init__(
        self,
        model: TextGenerator,
        max_batch_tokens: int,
        max_logits_bytes: int,
        ranks: Ranks,
        stop: Callable[[], bool],
    ) -> None:
        work = Work(ranks, stop=lambda: ranks.any_of_model(stop()))
        super().__init__(model, max_batch_tokens, max_logits_bytes, work)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Sequence[TokenRequest], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[Scored]:
        for text, _, continuation in requests:
            self._check_continuation(text, continuation)  # Here, where lm-eval can still be stopped.
        asked: list[TokenRequest] = [(None, context, continuation) for _, context, continuation in requests]
        broadcast(("score", asked))
        return self._score(asked)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        for request in requests:
            self._generation_settings(request.args[1])
        asked = [request.args for request in requests]
        broadcast(("generate", asked))
        return self._generate(asked)

    def help(self) -> None:
        """On the other ranks: answers until rank 0 calls `release`.

        Raises:
            Exception: what rank 0 was released with.
            Abandoned: on rank 0 as well, which then does not call `release`.
        """
        while (order := broadcast(None)) is not None:
            if isinstance(order, Exception):
                raise order
            kind, asked = order
            self._score(asked) if kind == "score" else self._generate(asked)

    def release(self, failure: Exception | None = None) -> None:
        """On rank 0: lm-eval is done, or has failed, which then ends all ranks."""
        known = failure is None or isinstance(failure, UserError)
        broadcast(failure if known else RuntimeError(f"the evaluation failed on rank 0: {failure!r}"))

    def _score(self, asked: list[TokenRequest]) -> list[Scored]:
        return super()._loglikelihood_tokens(asked, disable_tqdm=True)

    def _generate(self, asked: list[tuple[str, dict[str, Any]]]) -> list[str]:
        requests = [
            Instance("generate_until", {}, args, i, metadata=("", i, 1)) for i, args in enumerate(asked)
        ]
        return super().generate_until(requests, disable_tqdm=True)


def ranks_in_training() -> Ranks:
    """The ranks of a training run, whose data-parallel replicas share the requests. Every rank calls it once.

    Experts that are spread over replicas need all of them in every forward pass; each then answers all.
    """
    if parallel_state.get_expert_model_parallel_world_size() > 1:
        return Ranks(rank=dist.get_rank(), size=dist.get_world_size())
    return model_ranks()


def broadcast(value: T | None) -> Any:
    """What rank 0 gives, on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]
