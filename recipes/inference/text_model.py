"""A trained model ready to read and write text, on one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from recipes.parallel import cpu_stand_in

if not torch.cuda.is_available():  # Before megatron-core is imported: it looks at CUDA as it loads.
    cpu_stand_in.install()

from megatron.core import parallel_state
from megatron.core.inference.contexts import StaticInferenceContext
from megatron.core.models.gpt import GPTModel

from recipes.checkpoint.nemo.nemo_file import load_weights
from recipes.checkpoint.open import open_stored_model
from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.config.schema import ParallelConfig
from recipes.config.world import World
from recipes.data.tokenizer import TextTokenizer
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from recipes.inference.decoding import StopRule, TextGenerator
from recipes.model.build import build_gpt_model
from recipes.parallel.setup import (
    device_of,
    init_model_parallel,
    init_process_group,
    resolve_dtype,
    set_cpu_threads,
)


class GPTTextModel(TextGenerator):
    """A GPTModel with its tokenizer; offers what generation and recipes.evaluation need."""

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
            max_sequence_length=max_sequence_length,
            document_start_id=document_start_id,
        )
        self.gpt, self.name = gpt.eval(), name
        self.eos_text: str | None = tokenizer.id_to_piece(tokenizer.eos_id)

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """``[b, s]`` -> ``[b, s, vocab_size]``; causal, so right padding changes nothing."""
        return self._forward(tokens, 0, None)[..., : self.vocab_size]

    def _forward(self, tokens: Tensor, offset: int, context: StaticInferenceContext | None) -> Tensor:
        length = tokens.shape[1]
        position_ids = torch.arange(offset, offset + length, device=tokens.device).expand_as(tokens)
        return self.gpt(tokens, position_ids, None, inference_context=context, runtime_gather_output=True)

    def greedy(self, prompts: list[list[int]], max_new_tokens: int, stop: StopRule) -> list[list[int]]:
        """The likeliest continuation of each prompt, at most ``max_new_tokens`` ids."""
        limits = [len(prompt) + max_new_tokens for prompt in prompts]
        return self.generate(prompts, limits, lambda logits, _: logits.argmax(-1), stop)

    def _reader(self, rows: Tensor) -> Callable[[int], Tensor]:
        # What was read stays in a key-value cache.
        context = StaticInferenceContext(max_batch_size=rows.shape[0], max_sequence_length=rows.shape[1])
        read = 0

        def next_logits(place: int) -> Tensor:
            nonlocal read
            logits = self._forward(rows[:, read:place], read, context)[:, -1]
            context.increment_sequence_len_offset(place - read)
            read = place
            return logits

        return next_logits


def load_text_model(path: str, *, precision: str = "auto", num_threads: int | None = None) -> GPTTextModel:
    """Loads a stored model of any kind that recipes.checkpoint.open reads.

    Raises:
        UserError: it cannot be read.
    """
    set_cpu_threads(num_threads, World())
    with open_stored_model(Path(path)) as source:
        tokenizer = source.text_tokenizer
        source.check_rows_for(tokenizer)
        gpt = build_for_inference(source.model, precision)
        load_weights(source, gpt)
        return GPTTextModel(
            gpt,
            tokenizer,
            name=Path(path).stem,
            max_sequence_length=source.model.max_position_embeddings,
            document_start_id=_document_start(source),
        )


def build_for_inference(model: ModelConfig, precision: str) -> GPTModel:
    """The model on this process's device, its weights not filled."""
    world, parallel = World(), ParallelConfig()
    init_process_group(world)
    if not parallel_state.model_parallel_is_initialized():  # By an earlier model in this process.
        init_model_parallel(parallel, seed=1)
    gpt = build_gpt_model(model, parallel, resolve_dtype(precision), parallel_output=False)
    return gpt.to(device_of(world))


def _document_start(source: StoredModel) -> int | None:
    """What came before each document in training, None for nothing: prompts begin with it, or as they are.

    Recorded in our files; in Hugging Face's it is bos_token_id; NeMo's own files are prompted with BOS.
    """
    ours = source.config.get("recipes") or {}
    if source.generation == "training" and "document_start" not in ours:
        raise UserError(
            f"{source.path}: how its training documents began is not known, for the run's config.yaml or "
            "its data are gone; load the run's model.nemo"
        )
    tokenizer = source.text_tokenizer
    starts = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, None: None}
    return starts[source.document_start]
