"""A trained model ready to read and write text, in one process or split over several."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from recipes.parallel import cpu_stand_in
from recipes.parallel.light_imports import LOGGERS, without

with without(*LOGGERS):
    if not torch.cuda.is_available():  # Before megatron-core is imported: it looks at CUDA as it loads.
        cpu_stand_in.install()

    from megatron.core import parallel_state
    from megatron.core.inference.contexts import StaticInferenceContext
    from megatron.core.models.gpt import GPTModel

from recipes.checkpoint.open import open_stored_model
from recipes.checkpoint.stored.fill import load_weights
from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.config.schema import ParallelConfig
from recipes.config.validate_parallel import validate_parallel
from recipes.config.world import World
from recipes.data.samples.document_start import document_start_id
from recipes.data.tokenizer import TextTokenizer
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from recipes.inference.chosen_places import filled_up, head_at, sequence_parts
from recipes.inference.decode.choose_decoder import lean_decoder
from recipes.inference.decode.decoder import Decoder
from recipes.inference.layout import with_experts_dealt
from recipes.inference.memory import memory_for
from recipes.inference.pipeline import forward_through_stages
from recipes.inference.text_generator import TextGenerator
from recipes.model.build import build_gpt_model
from recipes.parallel.setup import (
    device_of,
    init_model_parallel,
    init_process_group,
    resolve_dtype,
    set_cpu_threads,
)

ALONE, ONE_PROCESS = World(), ParallelConfig()


class GPTTextModel(TextGenerator):
    """A GPTModel or this rank's part of one, with its tokenizer. See :class:`TextGenerator` for arguments."""

    def __init__(
        self,
        gpt: GPTModel,
        tokenizer: TextTokenizer,
        *,
        name: str,
        max_sequence_length: int,
        document_start_id: int | None,
    ) -> None:
        super().__init__(
            tokenizer,
            next(gpt.parameters()).device,
            name=name,
            max_sequence_length=max_sequence_length,
            document_start_id=document_start_id,
        )
        self.gpt = gpt.eval()
        self._parts = sequence_parts(gpt)
        # megatron-core's cache does not go with split sequences.
        self.reads_contexts_once = self._parts == 1
        self._beginning: tuple[Tensor, Tensor, StaticInferenceContext] | None = None
        """What :meth:`_read` read last, if it was one context: many calls may go on from it."""

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        tokens = filled_up(tokens, self._parts, self.eos_id)
        return self._forward(tokens, 0, None, *tokens.shape)[:, :length, : self.vocab_size]

    @torch.no_grad()
    def logits_at(self, tokens: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        count = len(rows)
        rows, places = filled_up(rows, self._parts), filled_up(places, self._parts)
        tokens = filled_up(tokens, self._parts, self.eos_id)
        with head_at(self.gpt, rows, places):
            return self._forward(tokens, 0, None, 1, len(rows))[0, :count, : self.vocab_size]

    @torch.no_grad()
    def logits_after(
        self, contexts: Tensor, owners: Tensor, continuations: Tensor, rows: Tensor, places: Tensor
    ) -> Tensor:
        if not self.reads_contexts_once:
            return super().logits_after(contexts, owners, continuations, rows, places)
        length, new = contexts.shape[1], continuations.shape[1]
        first, context = self._read(contexts)
        shared = StaticInferenceContext(max_batch_size=len(owners), max_sequence_length=length + new)
        shared.materialize_only_last_token_logits = False
        shared.sequence_len_offset = length
        for layer, cached in context.key_value_memory_dict.items():  # Keys and values, [p, b, groups, d].
            shared.key_value_memory_dict[layer] = tuple(
                torch.cat([part[:, owners], part.new_empty(new, len(owners), *part.shape[2:])])
                for part in cached
            )
        with head_at(self.gpt, rows, places):
            after = self._forward(continuations, length, shared, 1, len(rows))[0]
        return torch.cat([first, after])[:, : self.vocab_size]

    def _read(self, contexts: Tensor) -> tuple[Tensor, StaticInferenceContext]:
        """Logits ``[b, V]`` after contexts ``[b, p]``, and their keys and values."""
        if self._beginning is not None and torch.equal(self._beginning[0], contexts):
            return self._beginning[1:]
        rows, length = contexts.shape
        context = StaticInferenceContext(max_batch_size=rows, max_sequence_length=length)
        # The head is computed for the last token alone.
        logits = self._forward(contexts, 0, context, rows, 1)[:, -1]
        self._beginning = (contexts, logits, context) if rows == 1 else None
        return logits, context

    def forget(self) -> None:
        self._beginning = None

    def _forward(
        self,
        tokens: Tensor,
        offset: int,
        context: StaticInferenceContext | None,
        rows: int,
        positions: int,
    ) -> Tensor:
        """Logits ``[rows, positions, V]``; only in a pipeline must their number be known beforehand."""
        length = tokens.shape[1]
        position_ids = torch.arange(offset, offset + length, device=tokens.device).expand_as(tokens)
        if self.gpt.config.pipeline_model_parallel_size > 1:
            return forward_through_stages(self.gpt, tokens, position_ids, context, rows, positions)
        return self.gpt(tokens, position_ids, None, inference_context=context, runtime_gather_output=True)

    def decoder(self, slots: int, max_length: int) -> Decoder:
        """The lean forward pass, or megatron-core's own for models that it does not compute."""
        return lean_decoder(self.gpt, self.vocab_size, slots, max_length) or super().decoder(
            slots, max_length
        )


def load_text_model(
    path: str,
    *,
    precision: str = "auto",
    num_threads: int | None = None,
    parallel: ParallelConfig = ONE_PROCESS,
    world: World = ALONE,
    weights: str = "trained",
) -> GPTTextModel:
    """Loads a stored model of any kind that recipes.checkpoint.open reads.

    Args:
        parallel: how one model is split; every rank of ``world`` makes this call and gets its part.
        world: all processes; as many whole models are loaded as fit.
        weights: ema: the average in a training checkpoint instead of its weights.

    Raises:
        UserError: it cannot be read, or cannot be split so.
    """
    set_cpu_threads(num_threads, world)
    with open_stored_model(Path(path), weights=weights) as source:
        tokenizer = source.text_tokenizer
        source.check_rows_for(tokenizer)
        parallel = with_experts_dealt(parallel, source.model)
        _check_split(source.model, parallel)
        with memory_for(
            f"the weights of {path}", "split them, tensor_model_parallel_size=2, or precision=bf16"
        ):
            gpt = build_for_inference(source.model, precision, parallel, world)
            load_weights(source, gpt)
        return GPTTextModel(
            gpt,
            tokenizer,
            name=Path(path).stem,
            max_sequence_length=source.model.max_position_embeddings,
            document_start_id=_document_start_id(source),
        )


def _check_split(model: ModelConfig, parallel: ParallelConfig) -> None:
    try:
        validate_parallel(parallel, model, check_launcher=True)
    except UserError as error:
        raise UserError(str(error).removeprefix("parallel.")) from None


def build_for_inference(
    model: ModelConfig, precision: str, parallel: ParallelConfig = ONE_PROCESS, world: World = ALONE
) -> GPTModel:
    """The model, or this process's part of it, on its device, the weights not yet loaded."""
    device = prepare_process(parallel, world)
    gpt = build_gpt_model(model, parallel, resolve_dtype(precision), parallel_output=False)
    return gpt.to(device)


def prepare_process(parallel: ParallelConfig = ONE_PROCESS, world: World = ALONE) -> torch.device:
    """Whatever megatron-core's modules need around them; the device to build on."""
    init_process_group(world)
    if not parallel_state.model_parallel_is_initialized():  # By an earlier model of this process.
        init_model_parallel(parallel, seed=1)
    return device_of(world)


def _document_start_id(source: StoredModel) -> int | None:
    """The token that prompts begin with, as training documents did; None: they begin as they are."""
    section = source.config.get("recipes") or {}
    if source.generation == "training" and "document_start" not in section:
        raise UserError(
            f"{source.path}: how its training documents began is not known, for the run's config.yaml or "
            "its data are gone; load the run's model.nemo"
        )
    return document_start_id(source.document_start, source.text_tokenizer)
