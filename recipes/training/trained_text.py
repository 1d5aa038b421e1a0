"""The model in training, as completion and benchmarks see it: no second copy of its weights is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor, nn

from recipes.inference.chosen_places import filled_up, head_at, sequence_parts
from recipes.inference.decode.choose_decoder import lean_decoder
from recipes.inference.decode.decoder import Decoder
from recipes.inference.text_generator import TextGenerator
from recipes.parallel.last_stage import from_last_stage
from recipes.training.module import ParamGPT


class TrainedText(TextGenerator):
    """The model in training as a text generator, to be used within :func:`.undisturbed`.

    The ranks of one replica (tensor and pipeline parallelism) make the same calls and get the same figures,
    so any layout works except context parallelism. A model is completed as after training, by the lean
    forward pass on each rank's weights where they are. Replicas among which experts are spread make the same
    calls too.

    Args:
        model: in training; its layers may be compiled.
        document_start_id: the token that preceded every document.
    """

    reads_contexts_once = False

    def __init__(self, model: ParamGPT, document_start_id: int | None) -> None:
        run = model.run
        super().__init__(
            model.tokenizer,
            model.trainer.strategy.root_device,
            name=run.name,
            max_sequence_length=run.model.max_position_embeddings,
            document_start_id=document_start_id,
        )
        self.model = model

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        rows, places = torch.meshgrid(*map(torch.arange, tokens.shape), indexing="ij")
        logits = self.logits_at(tokens, *(index.flatten().to(tokens.device) for index in (rows, places)))
        return logits.view(*tokens.shape, -1)

    def decoder(self, slots: int, max_length: int) -> Decoder:
        """See :class:`TextGenerator`."""
        lean = lean_decoder(self.model.gpt, self.vocab_size, slots, max_length)
        if lean is None:
            return super().decoder(slots, max_length)
        lean.is_static = False  # No CUDA graphs: for a few tokens they are not worth a capture amid training.
        return lean

    @torch.no_grad()
    def logits_at(self, tokens: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """Logits ``[n, V]`` that follow ``tokens[rows, places]``, on every rank."""
        count, parts = len(rows), sequence_parts(self.model.gpt)
        rows, places = filled_up(rows, parts), filled_up(places, parts)
        # A causal model cannot see padding on the right.
        tokens = filled_up(tokens, parts, self.eos_id)
        batch, length = tokens.shape
        position_ids = torch.arange(length, device=tokens.device).expand_as(tokens)

        def forward_step(_: Iterator[None], ddp: nn.Module) -> tuple[Tensor, Callable[..., Tensor]]:
            logits = ddp(tokens, position_ids, None, runtime_gather_output=True)
            return logits, lambda output, non_loss_data: output[0].float().contiguous()

        with head_at(self.model.gpt, rows, places):
            outputs = get_forward_backward_func()(
                forward_step_func=forward_step,
                data_iterator=iter([None]),
                model=[self.model.ddp],
                num_microbatches=1,
                seq_length=length,
                micro_batch_size=batch,
                forward_only=True,
                collect_non_loss_data=True,
            )
        shape = (len(rows), self.model.gpt.vocab_size)
        logits = outputs[0] if outputs else torch.empty(shape, device=tokens.device)
        return from_last_stage(logits)[:count, : self.vocab_size]
