"""What comparisons of GPTModel with a reference share: weights, logits, losses, gradients, cached decoding.

The mappings of names are written for tests alone, beside and not from the project's own table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from megatron.core.inference.contexts import StaticInferenceContext
from megatron.core.models.gpt import GPTModel
from torch import Tensor, nn
from torch.nn import functional

from recipes.config.schema import ParallelConfig
from recipes.families.model_config import ModelConfig, kv_channels, moe_layers
from recipes.inference.engine import Engine, in_order
from recipes.inference.requests import Request, Sampling
from recipes.inference.text_model import GPTTextModel
from recipes.model.router import routers

SAMPLES, LENGTH, VOCABULARY = 3, 33, 256

Tensors = Mapping[str, Tensor]


def batch(vocab_size: int = VOCABULARY) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, labels and positions, each ``[b, s]``."""
    text = torch.randint(vocab_size, (SAMPLES, LENGTH + 1), generator=torch.Generator().manual_seed(3))
    text = text.to("cuda")
    positions = torch.arange(LENGTH, device=text.device).expand(SAMPLES, -1)
    return text[:, :-1].contiguous(), text[:, 1:].contiguous(), positions


# Weights


def shaken(gpt: GPTModel, low: float = 0.0, high: float = 0.5) -> GPTModel:
    """Moves gains and biases away from where they begin, so that one that is missing or misplaced is seen.

    Experts' biases too, far enough to change the choice of experts.
    """
    generator = torch.Generator().manual_seed(2)
    choosing = [router.expert_bias for router in routers(gpt) if router.enable_expert_bias]
    with torch.no_grad():
        for tensor in [*gpt.parameters(), *choosing]:
            if tensor.dim() == 1:
                tensor += (low + (high - low) * torch.rand(tensor.shape, generator=generator)).to(tensor)
    return gpt


def weights(gpt: GPTModel) -> dict[str, Tensor]:
    """Its parameters, without a graph."""
    return {name: parameter.detach() for name, parameter in gpt.named_parameters()}


def give_weights(reference: nn.Module, tensors: Tensors, without: Collection[str] = ()) -> None:
    """Loads them all, and lets none of the reference's own stay but those named in ``without``."""
    missing, unexpected = reference.load_state_dict(tensors, strict=False)
    assert not unexpected and set(missing) <= set(without)
    if hasattr(reference, "tie_weights"):
        reference.tie_weights()


def split_qkv(stored: Tensor, model: ModelConfig) -> dict[str, Tensor]:
    """Rows of linear_qkv, per query group [queries, key, value], as three matrices q, k and v."""
    groups = model.num_query_groups or model.num_attention_heads
    per_group = model.num_attention_heads // groups
    rows = stored.view(groups, per_group + 2, kv_channels(model), -1)
    parts = {"q": rows[:, :per_group], "k": rows[:, per_group], "v": rows[:, per_group + 1]}
    return {letter: part.reshape(-1, stored.shape[1]) for letter, part in parts.items()}


def tables_and_norm(tensors: Tensors, model: ModelConfig) -> dict[str, Tensor]:
    """What is outside of the layers, under transformers' names."""
    out = {
        "model.embed_tokens.weight": tensors["embedding.word_embeddings.weight"],
        "model.norm.weight": tensors["decoder.final_layernorm.weight"],
    }
    if not model.share_embeddings_and_output_weights:
        out["lm_head.weight"] = tensors["output_layer.weight"]
    return out


def projections(tensors: Tensors, model: ModelConfig, ours: str, theirs: str) -> dict[str, Tensor]:
    """A layer's queries, keys and values, each a matrix in transformers."""
    parts = split_qkv(tensors[ours + "self_attention.linear_qkv.weight"], model)
    return {f"{theirs}self_attn.{letter}_proj.weight": rows for letter, rows in parts.items()}


def gated_mlp(tensors: Tensors, ours: str, theirs: str) -> dict[str, Tensor]:
    gate, up = tensors[ours + "linear_fc1.weight"].chunk(2)
    down = tensors[ours + "linear_fc2.weight"]
    return {
        f"{theirs}gate_proj.weight": gate,
        f"{theirs}up_proj.weight": up,
        f"{theirs}down_proj.weight": down,
    }


def llama_names(tensors: Tensors, model: ModelConfig) -> dict[str, Tensor]:
    """Weights (or their gradients) of the Llama line, with experts and QK-norm, under transformers' names."""
    out = tables_and_norm(tensors, model)
    for i, is_moe in enumerate(moe_layers(model)):
        ours, theirs = f"decoder.layers.{i}.", f"model.layers.{i}."
        out[theirs + "input_layernorm.weight"] = tensors[ours + "input_layernorm.weight"]
        out[theirs + "post_attention_layernorm.weight"] = tensors[ours + "pre_mlp_layernorm.weight"]
        out[theirs + "self_attn.o_proj.weight"] = tensors[ours + "self_attention.linear_proj.weight"]
        out |= projections(tensors, model, ours, theirs)
        if model.qk_layernorm:
            out[theirs + "self_attn.q_norm.weight"] = tensors[ours + "self_attention.q_layernorm.weight"]
            out[theirs + "self_attn.k_norm.weight"] = tensors[ours + "self_attention.k_layernorm.weight"]
        if not is_moe:
            out |= gated_mlp(tensors, ours + "mlp.", theirs + "mlp.")
            continue
        experts = [f"{ours}mlp.experts.local_experts.{e}." for e in range(model.num_moe_experts or 0)]
        out[theirs + "mlp.gate.weight"] = tensors[ours + "mlp.router.weight"]
        for name, part in (("gate_up_proj", "linear_fc1.weight"), ("down_proj", "linear_fc2.weight")):
            out[f"{theirs}mlp.experts.{name}"] = torch.stack([tensors[expert + part] for expert in experts])
        if model.moe_shared_expert_intermediate_size:
            out |= gated_mlp(tensors, ours + "mlp.shared_experts.", theirs + "mlp.shared_experts.")
    return out


# Comparisons


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Of every parameter that has one, by its name."""
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def assert_gradients_agree(ours: Tensors, theirs: Tensors) -> None:
    """The same tensors, none of them zero, equal to 2e-5 of the tensor's largest gradient."""
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        scale = gradient.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(
            ours[name], gradient, rtol=0, atol=2e-5 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_logits_losses_and_gradients_agree(
    gpt: GPTModel,
    reference: Callable[[Tensor], Tensor],
    our_gradients: Callable[[Tensors], Tensors],
    their_gradients: Callable[[], Tensors],
    atol: float = 1e-5,
) -> None:
    """One batch through both, forward and backward.

    Args:
        reference: tokens ``[b, s]`` -> logits ``[b, s, V]``, with the same weights.
        our_gradients: those of ``gpt`` under the reference's names.
        their_gradients: those of the reference, asked for after its backward pass.
        atol: of logits and losses.
    """
    tokens, labels, positions = batch()
    logits, expected = gpt(tokens, positions, None), reference(tokens)
    assert expected.std() > 0.3, "the comparison would say nothing"
    assert (logits.to(expected.device) - expected).abs().max() < atol

    losses = gpt(tokens, positions, None, labels=labels)
    labels = labels.to(expected.device)
    expected_losses = functional.cross_entropy(expected.transpose(1, 2).double(), labels, reduction="none")
    torch.testing.assert_close(losses.to(expected_losses), expected_losses, rtol=0, atol=atol)

    losses.mean().backward()
    expected_losses.mean().backward()
    assert_gradients_agree(our_gradients(gradients(gpt)), their_gradients())


def assert_recomputation_changes_no_gradient(
    build: Callable[[ParallelConfig], GPTModel],
    parallel: ParallelConfig,
    repeated: str,
    tolerance: float = 0.0,
) -> None:
    """Activations computed again in the backward pass give the gradients of those that are kept.

    Args:
        build: the same weights whatever is recomputed.
        repeated: the module that runs twice with ``parallel``, once without.
        tolerance: of the tensor's largest gradient.
    """
    tokens, labels, positions = batch()
    results = []
    for recomputing, times in ((ParallelConfig(), 1), (parallel, 2)):
        gpt = build(recomputing).train()
        calls: list[str] = []
        gpt.get_submodule(repeated).register_forward_hook(lambda *_: calls.append(repeated))  # noqa: B023
        gpt(tokens, positions, None, labels=labels).mean().backward()
        assert len(calls) == times
        results.append(gradients(gpt))
    kept, again = results
    assert kept.keys() == again.keys() == dict(gpt.named_parameters()).keys()
    for name, gradient in kept.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(again[name], gradient, rtol=0, atol=tolerance * scale, msg=name)


def assert_cached_greedy_is_the_full_forward(gpt: GPTModel) -> None:
    """Greedy decoding with a key-value cache, from a prompt shorter than any window and out of it."""
    tokens, _, positions = batch()
    tokens = tokens.clone()
    prompt = 4  # Shorter than the window: decoding leaves it behind.
    context = StaticInferenceContext(max_batch_size=len(tokens), max_sequence_length=LENGTH)
    read = 0
    with torch.inference_mode():
        for place in range(prompt, LENGTH):
            logits = gpt(
                tokens[:, read:place],
                positions[:, read:place],
                None,
                inference_context=context,
                runtime_gather_output=True,
            )
            context.increment_sequence_len_offset(place - read)
            read = place
            expected = gpt(tokens[:, :place], positions[:, :place], None)[:, -1]
            torch.testing.assert_close(logits[:, -1], expected, rtol=0, atol=1e-5)
            tokens[:, place] = logits[:, -1].argmax(-1)
        whole = gpt(tokens[:, :-1], positions[:, :-1], None)[:, prompt - 1 :].argmax(-1)
    assert torch.equal(whole, tokens[:, prompt:])


def assert_completions_are_the_full_forward(gpt: GPTModel) -> None:
    """20 greedy tokens as they are completed, and by reading the whole text anew for each."""
    tokenizer: Any = SimpleNamespace(vocab_size=200, bos_id=1, eos_id=2, id_to_piece=str)
    model = GPTTextModel(gpt, tokenizer, name="tiny", max_sequence_length=64, document_start_id=None)
    prompt = [5, 17, 99, 3, 42]
    engine = Engine(model, slots=1, max_length=64)
    (result,) = in_order(engine, [Request(tuple(prompt), 20, sampling=Sampling(greedy=True))])
    cached = list(result.token_ids)
    text = list(prompt)
    for _ in range(20):
        text.append(int(model.logits(torch.tensor([text], device=model.device))[0, -1].argmax()))
    assert cached == text[len(prompt) :]
    assert len(set(cached)) > 4, "the comparison would say nothing"
