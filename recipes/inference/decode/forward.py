"""The lean forward pass: what a GPTModel computes, from its weights, with a static cache.

No module of megatron-core is called. Tokens are flat ``[n, h]`` between attentions, whether they are one new
token of each row or whole prompts. Where a model is split over ranks, all make the same calls, each for the
heads and layers that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding, scaled_dot_product_attention

from recipes.inference.decode.cache import Cache, Writes
from recipes.inference.decode.experts import mixture
from recipes.inference.decode.few_rows import step_product
from recipes.inference.decode.fused import FusedStep, can_fuse
from recipes.inference.decode.norm import Norm
from recipes.inference.decode.prompts import prompt_attention, prompt_batches
from recipes.inference.decode.rotary import RotaryTables, rotate
from recipes.inference.decode.weights import Experts, Layer, Weights
from recipes.parallel.last_stage import from_last_stage

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""``attend(layer, queries [n, groups, per group, d], keys [n, groups, d], values) -> [n, heads * d]``."""


class LeanDecoder:
    """Reads prompts into slots of a cache, then makes steps of one token for all slots.

    Args:
        weights: views of a GPTModel's, or of this rank's part of one.
        slots: rows of the cache.
        max_length: tokens that each row can hold.
    """

    def __init__(self, weights: Weights, slots: int, max_length: int) -> None:
        self.weights, self.max_length = weights, max_length
        self.cache = Cache(weights, slots, max_length)
        self.tables = RotaryTables(weights, max_length)
        self.fused = FusedStep(weights, self.cache, self.tables) if can_fuse(weights) else None
        self.is_static = self.fused is not None or (
            weights.share.is_whole and not any(isinstance(layer.mlp, Experts) for layer in weights.layers)
        )
        self.chunk = 2048
        """Tokens of a prompt that are read in one pass."""

    def read(self, slots: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        """Reads prompts into the slots.

        Returns:
            Logits ``[n, V]`` after the last token of each, in their order.
        """
        last: list[Tensor | None] = [None] * len(prompts)
        for batch in prompt_batches([len(prompt) for prompt in prompts], self.weights.device.type):
            hidden = self._read([slots[i] for i in batch], [prompts[i] for i in batch])
            for i, row in zip(batch, hidden, strict=True):
                last[i] = row
        return self.head(torch.stack([row for row in last if row is not None]))

    def _read(self, slots: list[int], prompts: list[Sequence[int]]) -> list[Tensor]:
        """The residual stream ``[h]`` at the last token of each prompt, which are read in chunks."""
        device, chunk = self.weights.device, self.chunk
        longest = max(map(len, prompts))
        last: list[Tensor | None] = [None] * len(prompts)
        for start in range(0, longest, chunk):
            rows = [row for row, prompt in enumerate(prompts) if len(prompt) > start]
            parts = [prompts[row][start : start + chunk] for row in rows]
            width = max(map(len, parts))
            tokens = torch.tensor([[*part, *[0] * (width - len(part))] for part in parts], device=device)
            ends = [start + len(part) for part in parts]
            hidden = self._read_chunk([slots[row] for row in rows], tokens, ends, start)
            for row, part, states in zip(rows, parts, hidden, strict=True):
                last[row] = states[len(part) - 1]
        return [states for states in last if states is not None]

    def _read_chunk(self, slots: list[int], tokens: Tensor, ends: list[int], start: int) -> Tensor:
        """``tokens`` ``[n, s]``, from position ``start`` on -> the residual stream ``[n, s, h]``."""
        rows, width = tokens.shape
        device, weights = tokens.device, self.weights
        writes = {
            capacity: Writes(slots, ends, start, capacity, device) for capacity in set(self.cache.capacities)
        }
        slot_index = torch.tensor(slots, device=device)

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            new = (keys.view(rows, width, *keys.shape[1:]), values.view(rows, width, *values.shape[1:]))
            seen = [part.transpose(1, 2) for part in new]  # [n, groups, s, d]
            if start > 0:
                earlier = self.cache.earlier(layer, slot_index, start)
                seen = [torch.cat(parts, dim=2) for parts in zip(earlier, seen, strict=True)]
            write = writes[self.cache.capacities[layer]]
            write.write(self.cache.keys[layer], new[0])
            write.write(self.cache.values[layer], new[1])
            query = queries.reshape(rows, width, weights.heads, weights.width).transpose(1, 2)
            window = weights.layers[layer].window
            out = prompt_attention(query, seen[0], seen[1], scale=weights.scale, window=window)
            return out.transpose(1, 2).reshape(rows * width, -1)

        positions = torch.arange(start, start + width, device=device).repeat(rows)
        return self._layers(tokens.flatten(), positions, attend).view(rows, width, -1)

    def step(self, tokens: Tensor, positions: Tensor, longest: int | None) -> Tensor:
        """One new token for each of the first b slots.

        Args:
            tokens, positions: ``[b]``.
            longest: at least the largest position plus one; None: not known to the host.

        Returns:
            Logits ``[b, V]`` that follow the tokens.
        """
        if self.fused is not None:
            return self._fused_step(tokens.contiguous(), positions.contiguous(), longest or self.max_length)
        attend = self._step_attention(positions, self.max_length if longest is None else longest)
        return self.head(self._layers(tokens, positions, attend))

    def move(self, source: int, target: int) -> None:
        """Puts one slot's text into another, which nobody uses."""
        self.cache.move(source, target)

    def _step_attention(self, positions: Tensor, longest: int) -> Attend:
        cache, scale = self.cache, self.weights.scale
        batch = len(positions)
        rows = torch.arange(batch, device=positions.device)
        places, masks = {}, {}
        for capacity in set(cache.capacities):
            places[capacity] = positions % capacity
            seen = min(longest, capacity)
            visible = torch.arange(seen, device=positions.device) <= positions[:, None]
            # One row sees all that is kept, so it needs no mask.
            masks[capacity] = None if batch == 1 else visible[:, None, None]

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            capacity = cache.capacities[layer]
            cache.keys[layer][rows, :, places[capacity]] = keys
            cache.values[layer][rows, :, places[capacity]] = values
            seen = min(longest, capacity)
            # A group's queries stand where a sequence's would: its keys need not be repeated for them.
            out = scaled_dot_product_attention(
                queries,
                cache.keys[layer][:batch, :, :seen],
                cache.values[layer][:batch, :, :seen],
                attn_mask=masks[capacity],
                scale=scale,
            )
            return out.reshape(batch, -1)

        return attend

    def _fused_step(self, tokens: Tensor, positions: Tensor, longest: int) -> Tensor:
        assert self.fused is not None
        fused, layers = self.fused, self.weights.layers
        hidden = embedded = self._embed(tokens, positions)
        normed = fused.norm(hidden, layers[0].input_norm)
        assert self.weights.final_norm is not None  # All is here.
        following = [*(layer.input_norm for layer in layers[1:]), self.weights.final_norm]
        for number, (layer, next_norm) in enumerate(zip(layers, following, strict=True)):
            if layer.stream_share is not None:
                hidden = _mixed(layer, hidden, embedded)
                normed = fused.norm(hidden, layer.input_norm)
            out = fused.attention(number, layer, normed, tokens, positions, longest)
            hidden, normed = fused.add(hidden, out, layer.after_attention, layer.mlp_norm)
            out = fused.mlp(number, layer, normed)
            hidden, normed = fused.add(hidden, out, layer.after_mlp, next_norm)
        return self._capped(fused.head(normed))

    def head(self, hidden: Tensor) -> Tensor:
        """The residual stream ``[n, h]`` -> logits ``[n, V]`` of the real vocabulary."""
        weights, share = self.weights, self.weights.share
        if weights.head is None or weights.final_norm is None:
            return from_last_stage(hidden.new_empty((len(hidden), weights.vocab_size), dtype=torch.float32))
        logits = share.joined(step_product(weights.final_norm(hidden), weights.head))
        logits = self._capped(logits[:, : weights.vocab_size])
        return logits if share.pipeline is None else from_last_stage(logits.float().contiguous())

    def _capped(self, logits: Tensor) -> Tensor:
        cap = self.weights.soft_cap
        return logits if cap is None else _soft_capped(logits.float(), cap)

    def _layers(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Tokens and positions ``[n]`` -> the residual stream ``[n, h]`` after this rank's last layer."""
        share = self.weights.share
        if share.is_first:
            hidden = self._embed(tokens, positions)
        else:
            shape = (len(tokens), self.weights.hidden_size)
            hidden = share.receive(torch.empty(shape, dtype=self.weights.dtype, device=tokens.device))
        embedded = hidden
        angles = self.tables.at(positions, hidden.dtype)
        for number, layer in enumerate(self.weights.layers):
            hidden = _mixed(layer, hidden, embedded)
            hidden = self._attention(number, layer, hidden, tokens, angles, attend)
            hidden = self._mlp(layer, hidden)
        share.send(hidden)
        return hidden

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        weights = self.weights
        assert weights.words is not None
        hidden = weights.share.rows(weights.words, tokens)
        if weights.positions is not None:
            hidden = hidden + embedding(positions, weights.positions)
        if weights.word_factor != 1.0:
            hidden = hidden * weights.word_factor
        if weights.word_norm is not None:
            hidden = weights.word_norm(hidden)
        return hidden

    def _attention(
        self,
        number: int,
        layer: Layer,
        hidden: Tensor,
        tokens: Tensor,
        angles: list[tuple[Tensor, Tensor]],
        attend: Attend,
    ) -> Tensor:
        groups, width = self.weights.groups, self.weights.width
        normed = layer.input_norm(hidden)
        parts = layer.qkv(normed).view(len(hidden), groups, -1, width)
        heads, values = parts[:, :, :-1], parts[:, :, -1]  # A group's queries and then its key; its value.
        if layer.query_norm is not None and layer.key_norm is not None:
            heads = _normed(heads, layer.query_norm, layer.key_norm)
        if angles:
            heads = rotate(heads, *angles[layer.rotary])
        if layer.value_table is not None and layer.value_gate is not None:
            gate = step_product(normed[:, : layer.value_gate.shape[1]], layer.value_gate)
            embedded = embedding(tokens, layer.value_table).view_as(values)
            values = torch.addcmul(values, torch.sigmoid(gate).unsqueeze(-1), embedded, value=2.0)
        out = layer.output(attend(number, heads[:, :, :-1], heads[:, :, -1], values))
        return hidden + (out if layer.after_attention is None else layer.after_attention(out))

    def _mlp(self, layer: Layer, hidden: Tensor) -> Tensor:
        normed = layer.mlp_norm(hidden)
        out = mixture(layer.mlp, normed) if isinstance(layer.mlp, Experts) else layer.mlp(normed)
        return hidden + (out if layer.after_mlp is None else layer.after_mlp(out))


def _mixed(layer: Layer, hidden: Tensor, embedded: Tensor) -> Tensor:
    """What the layer reads."""
    if layer.stream_share is None or layer.embedding_share is None:
        return hidden
    return layer.stream_share.squeeze() * hidden + layer.embedding_share.squeeze() * embedded


def _normed(heads: Tensor, query_norm: Norm, key_norm: Norm) -> Tensor:
    """Each group's queries and its key, ``[n, groups, per group + 1, d]``."""
    if query_norm.gain is None and key_norm.gain is None:
        return query_norm(heads)
    return torch.cat((query_norm(heads[:, :, :-1]), key_norm(heads[:, :, -1:])), dim=2)


def _soft_capped(logits: Tensor, cap: float) -> Tensor:
    """``[n, V]`` in fp32, between -cap and cap (Gemma 2, arXiv:2408.00118, section 2); may change them."""
    if logits.device.type != "cpu":
        return cap * torch.tanh(logits / cap)
    logits.div_(cap)
    np.tanh(logits.numpy(), out=logits.numpy())  # Takes an eighth of torch's time.
    return logits.mul_(cap)
