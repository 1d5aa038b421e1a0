"""A model's logits where its layers are split over pipeline stages."""

from __future__ import annotations

import torch
from megatron.core.inference.communication_utils import (
    recv_from_prev_pipeline_rank_,
    send_to_next_pipeline_rank,
)
from megatron.core.inference.contexts import StaticInferenceContext
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from recipes.inference.chosen_places import sequence_parts
from recipes.parallel.last_stage import from_last_stage


def forward_through_stages(
    gpt: GPTModel,
    tokens: Tensor,
    position_ids: Tensor,
    context: StaticInferenceContext | None,
    rows: int,
    positions: int,
) -> Tensor:
    """The logits ``[rows, positions, V]`` of ``tokens`` ``[b, s]``, on every stage.

    Every rank makes this call. The stages work one after the other: a reader has but one batch.
    """
    device = tokens.device
    if not gpt.pre_process:
        batch, length = tokens.shape
        shape = (length // sequence_parts(gpt), batch, gpt.config.hidden_size)
        states = torch.empty(shape, dtype=gpt.config.pipeline_dtype, device=device)
        recv_from_prev_pipeline_rank_(states)
        gpt.set_input_tensor(states)
    output = gpt(tokens, position_ids, None, inference_context=context, runtime_gather_output=True)
    if gpt.post_process:
        logits = output.float().contiguous()
    else:
        send_to_next_pipeline_rank(output)
        logits = torch.empty((rows, positions, gpt.vocab_size), dtype=torch.float32, device=device)
    return from_last_stage(logits)
