"""PARAM MoE against a plain PyTorch model written from its description; noisy gating against its formulas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from megatron.core.models.gpt import GPTModel
from torch import Tensor, nn
from torch.nn import functional

from recipes.config.schema import ParallelConfig
from recipes.families.model_config import ModelConfig
from recipes.model.noisy_router import NoisyTopKRouter, probability_of_choice
from recipes.model.router import routers
from recipes.parallel.setup import seed_random_states
from tests.support.engine import TINY, initialized
from tests.support.parity import (
    assert_completions_are_the_full_forward,
    assert_gradients_agree,
    assert_logits_losses_and_gradients_agree,
    batch,
    give_weights,
    gradients,
    split_qkv,
    weights,
)

pytestmark = pytest.mark.usefixtures("engine")

MODEL = replace(
    TINY,
    family="param_moe",
    num_query_groups=None,
    vocab_size=256,
    init_method_std=0.1,
    normalization="LayerNorm",
    activation="gelu",
    add_bias_linear=True,
    position_embedding_type="learned_absolute",
    num_moe_experts=5,
    moe_layer_freq=2,
)
WIDTH, HEADS = MODEL.hidden_size, MODEL.num_attention_heads


def shaken(gpt: GPTModel) -> GPTModel:
    """Moves gains, biases and router matrices away from where they begin."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in gpt.named_parameters():
            size = 0.5 if "router" in name else 0.1 * (parameter.dim() == 1)
            parameter += size * torch.randn(parameter.shape, generator=generator).to(parameter.device)
    return gpt


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W_query, self.W_key, self.W_value = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.out_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        def heads(linear: nn.Linear) -> Tensor:
            return linear(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)

        scores = heads(self.W_query) @ heads(self.W_key).transpose(2, 3) / math.sqrt(WIDTH // HEADS)
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        mixed = scores.masked_fill(future, -torch.inf).softmax(-1) @ heads(self.W_value)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, MODEL.ffn_hidden_size)
        self.fc2 = nn.Linear(MODEL.ffn_hidden_size, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        experts = MODEL.num_moe_experts or 0
        self.w_g = nn.Linear(WIDTH, experts, bias=False)
        self.w_noise = nn.Linear(WIDTH, experts, bias=False)
        self.experts = nn.ModuleList(FeedForward() for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        """Without noise. Every expert reads every token; those not chosen weigh nothing."""
        logits = self.w_g(x)
        smallest = logits.sort(dim=-1, descending=True).values[..., MODEL.moe_router_topk - 1, None]
        gates = logits.masked_fill(logits < smallest, -torch.inf).softmax(-1)
        return sum(gates[..., i, None] * expert(x) for i, expert in enumerate(self.experts))


class Reference(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(MODEL.vocab_size, WIDTH)
        self.positions = nn.Embedding(MODEL.max_position_embeddings, WIDTH)
        layers = range(MODEL.num_layers)
        self.norm1 = nn.ModuleList(nn.LayerNorm(WIDTH, MODEL.layernorm_epsilon) for _ in layers)
        self.norm2 = nn.ModuleList(nn.LayerNorm(WIDTH, MODEL.layernorm_epsilon) for _ in layers)
        self.attention = nn.ModuleList(Attention() for _ in layers)
        self.mlp = nn.ModuleList(Mixture() if i % 2 == 0 else FeedForward() for i in layers)
        self.final_norm = nn.LayerNorm(WIDTH, MODEL.layernorm_epsilon)
        self.head = nn.Linear(WIDTH, MODEL.vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.positions.weight[: tokens.shape[1]]
        for i in range(MODEL.num_layers):
            x = x + self.attention[i](self.norm1[i](x))
            x = x + self.mlp[i](self.norm2[i](x))
        return self.head(self.final_norm(x))


def reference_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights (or their gradients) of GPTModel under the reference's names; w_noise has no part in it."""
    out = {
        "words.weight": tensors["embedding.word_embeddings.weight"],
        "positions.weight": tensors["embedding.position_embeddings.weight"],
        "head.weight": tensors["output_layer.weight"],
    }
    renamed = {"decoder.final_layernorm": "final_norm"}
    for i in range(MODEL.num_layers):
        ours = f"decoder.layers.{i}."
        qkv = tensors[ours + "self_attention.linear_qkv.weight"]
        for letter, rows in split_qkv(qkv, MODEL).items():
            name = {"q": "query", "k": "key", "v": "value"}[letter]
            out[f"attention.{i}.W_{name}.weight"] = rows
        renamed[ours + "input_layernorm"] = f"norm1.{i}"
        renamed[ours + "pre_mlp_layernorm"] = f"norm2.{i}"
        renamed[ours + "self_attention.linear_proj"] = f"attention.{i}.out_proj"
        if i % 2:
            mlps = {ours + "mlp.": f"mlp.{i}."}
        else:
            out[f"mlp.{i}.w_g.weight"] = tensors[ours + "mlp.router.weight"]
            places = range(MODEL.num_moe_experts or 0)
            mlps = {f"{ours}mlp.experts.local_experts.{e}.": f"mlp.{i}.experts.{e}." for e in places}
        renamed |= {f"{a}linear_fc{n}": f"{b}fc{n}" for a, b in mlps.items() for n in (1, 2)}
    for name, new in renamed.items():
        out |= {f"{new}.{part}": tensors[f"{name}.{part}"] for part in ("weight", "bias")}
    return out


def without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoisyTopKRouter, "standard_normal", lambda self, _, logits: torch.zeros_like(logits))


def test_parity(monkeypatch: pytest.MonkeyPatch) -> None:
    without_noise(monkeypatch)
    gpt = shaken(initialized(MODEL))
    reference = Reference().to("cuda")
    unused = [name for name, _ in reference.named_parameters() if "w_noise" in name]
    give_weights(reference, reference_names(weights(gpt)), without=unused)
    tokens, _, positions = batch()
    evaluated = gpt.eval()(tokens, positions, None)
    assert (evaluated - reference(tokens)).abs().max() < 1e-5
    assert_logits_losses_and_gradients_agree(
        gpt.train(), reference, reference_names, lambda: gradients(reference)
    )
    # Bias-free: queries, keys, values, head and both router maps.
    biased = {name for name, _ in gpt.named_parameters() if name.endswith("bias")}
    assert not [name for name in biased if "qkv" in name or "router" in name or "output_layer" in name]


def test_dropout_is_on_the_embedding_and_every_sub_layer() -> None:
    """Half of what each place adds to the residual stream is dropped."""
    gpt = initialized(replace(MODEL, hidden_dropout=0.5))
    tokens, _, positions = batch()
    stream: list[Tensor] = []
    gpt.embedding.register_forward_hook(lambda *hook: stream.append(hook[2]))
    for layer in gpt.decoder.layers:
        layer.pre_mlp_layernorm.register_forward_pre_hook(lambda _, inputs: stream.append(inputs[0]))
        layer.register_forward_hook(lambda *hook: stream.append(hook[2][0]))
    gpt.train()(tokens, positions, None)
    added = [stream[0], *(after - before for before, after in pairwise(stream))]
    assert len(added) == 1 + 2 * MODEL.num_layers
    for part in added:
        assert 0.4 < (part == 0).float().mean() < 0.6


def test_routers_begin_without_preference() -> None:
    gpt = initialized(MODEL)
    assert len(routers(gpt)) == 2
    for router in routers(gpt):
        assert not router.weight.any() and not router.noise_weight.any()


# Noisy gating


def noisy_router(model: ModelConfig = MODEL) -> tuple[NoisyTopKRouter, Tensor]:
    """A router with weights, and hidden states ``[s, b, h]`` for it."""
    router = routers(shaken(initialized(model)))[0]
    x = torch.randn(16, 4, WIDTH, generator=torch.Generator().manual_seed(4)).to("cuda")
    return router, 0.3 * x


def test_noise_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits in training are normal about x W_g with deviation softplus(x W_noise), independently."""
    router, x = noisy_router()
    seen: list[Tensor] = []
    routing = router.routing
    monkeypatch.setattr(router, "routing", lambda logits: seen.append(logits.detach()) or routing(logits))
    draws = 2000
    with torch.no_grad():
        for _ in range(draws):
            router(x)
        logits = torch.stack(seen).double()  # [draws, s, b, experts]
        clean = x.double() @ router.weight.double().t()
        deviation = functional.softplus(x.double() @ router.noise_weight.double().t())
    assert deviation.max() > 2 * deviation.min()
    standard = (logits - clean) / deviation
    mean, variance = standard.mean(0), standard.var(0)
    places = mean.numel()
    # Six standard errors at the worst of all places, five over all of them.
    assert mean.abs().max() < 6 / math.sqrt(draws)
    assert (variance - 1).abs().max() < 6 * math.sqrt(2 / draws)
    assert abs(standard.mean()) < 5 / math.sqrt(draws * places)
    assert abs((standard**4).mean() - 3) < 5 * math.sqrt(96 / (draws * places))
    flat = standard.flatten(1)
    correlation = (flat.t() @ flat / draws).fill_diagonal_(0)
    assert correlation.abs().max() < 7 / math.sqrt(draws), "tokens and experts are independent"
    assert abs((standard[1:] * standard[:-1]).mean()) < 5 / math.sqrt(draws * places), "and so are steps"
    router.eval()
    router(x)
    torch.testing.assert_close(seen[-1].double(), clean, rtol=1e-5, atol=1e-6)


def test_probability_of_choice_is_a_frequency() -> None:
    """P(x, i) against how often i is among the k when its own noise alone is drawn again."""
    generator = torch.Generator().manual_seed(6)
    tokens, experts, k, draws = 4, 6, 2, 40_000
    clean = torch.randn(tokens, experts, generator=generator, dtype=torch.float64)
    deviation = 0.3 + torch.rand(tokens, experts, generator=generator, dtype=torch.float64)
    noisy = clean + deviation * torch.randn(tokens, experts, generator=generator, dtype=torch.float64)
    computed = probability_of_choice(clean, noisy, deviation, k)
    for i in range(experts):
        again = noisy.expand(draws, -1, -1).clone()
        fresh = torch.randn(draws, tokens, generator=generator, dtype=torch.float64)
        again[..., i] = clean[:, i] + deviation[:, i] * fresh
        frequency = (again.topk(k, dim=-1).indices == i).any(-1).double().mean(0)
        assert (frequency - computed[:, i]).abs().max() < 5 * 0.5 / math.sqrt(draws)
    assert computed.min() < 0.05 and computed.max() > 0.8


def plain_losses(x: Tensor, w_g: Tensor, w_noise: Tensor, eps: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """CV^2 of importance (eq. 6, 7) and of load (eq. 8 to 11), token by token."""
    importance, load = [], []
    for token, noise in zip(x.flatten(0, 1), eps.flatten(0, 1), strict=True):
        clean, deviation = w_g @ token, torch.log1p(torch.exp(w_noise @ token))
        noisy = clean + noise * deviation
        order = noisy.argsort(descending=True).tolist()
        kept = torch.stack([noisy[i] for i in order[:k]]).softmax(0)
        gates = [
            kept[order.index(i)] if i in order[:k] else torch.zeros_like(kept[0]) for i in range(len(w_g))
        ]
        chances = []
        for i in range(len(w_g)):
            others = [noisy[j] for j in order if j != i]
            chances.append(0.5 * (1 + torch.erf((clean[i] - others[k - 1]) / deviation[i] / math.sqrt(2))))
        importance.append(torch.stack(gates))
        load.append(torch.stack(chances))

    def squared_variation(per_token: list[Tensor]) -> Tensor:
        total = torch.stack(per_token).sum(0)
        return ((total - total.mean()) ** 2).mean() / total.mean() ** 2

    return squared_variation(importance), squared_variation(load)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_balancing_losses(monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    from megatron.core.transformer.moe.moe_utils import get_moe_layer_wise_logging_tracker

    pre_softmax = {"moe_router_pre_softmax": True} if k == 1 else {}  # megatron-core refuses k = 1 without.
    model = replace(
        MODEL, moe_importance_loss_coeff=0.3, moe_load_loss_coeff=0.2, moe_router_topk=k, **pre_softmax
    )
    router, x = noisy_router(model)
    eps = torch.randn(16, 4, 5, generator=torch.Generator().manual_seed(8)).to("cuda")
    monkeypatch.setattr(router, "standard_normal", lambda _, logits: eps)
    inputs = [tensor.detach().double().requires_grad_() for tensor in (x, router.weight, router.noise_weight)]
    importance, load = plain_losses(*inputs, eps.double(), k)
    tokens = 16 * 4
    (tokens * (0.3 * importance + 0.2 * load)).backward()

    get_moe_layer_wise_logging_tracker().clear()
    x = x.requires_grad_()
    gates, chosen = router(x)
    assert (chosen.sum(-1) == k).all()
    # Nothing but the losses: their gradient comes with that of the gates, which is zero here.
    (0.0 * gates.sum()).backward()
    for ours, theirs in zip((x, router.weight, router.noise_weight), inputs, strict=True):
        assert ours.grad is not None and theirs.grad is not None
        scale = theirs.grad.abs().max().item()
        assert scale > 1e-3
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0, atol=1e-4 * scale)
    tracker = get_moe_layer_wise_logging_tracker()
    for name, value in (("importance_loss", importance), ("load_loss", load)):
        assert tracker[name]["values"].tolist() == pytest.approx([value.item(), 0, 0, 0], rel=1e-5)


def test_no_losses_in_evaluation_or_without_coefficients() -> None:
    from megatron.core.transformer.moe.moe_utils import get_moe_layer_wise_logging_tracker

    get_moe_layer_wise_logging_tracker().clear()
    router, x = noisy_router()
    router(x)
    balanced, _ = noisy_router(replace(MODEL, moe_importance_loss_coeff=0.3, moe_load_loss_coeff=0.2))
    balanced.eval()
    balanced(x)
    assert not get_moe_layer_wise_logging_tracker()
    balanced.train()
    balanced(x)
    assert get_moe_layer_wise_logging_tracker()


def drawn(model: ModelConfig, **options: Any) -> Tensor:
    """Gates of the first router in training, from the same weights, hidden states and random state."""
    router, x = noisy_router(replace(model, megatron=options))
    seed_random_states(5)
    gates: Tensor = router(x)[0]
    return gates.detach()


@pytest.mark.parametrize(
    "option", [{"moe_input_jitter_eps": 0.5}, {"moe_router_force_load_balancing": True}], ids=str
)
def test_the_noisy_router_reads_neither_jitter_nor_forced_balance(option: dict[str, Any]) -> None:
    """Why param_moe refuses them: megatron-core's router applies both where ours takes its place."""
    assert torch.equal(drawn(MODEL), drawn(MODEL, **option))
    mixture = replace(TINY, num_moe_experts=5)
    assert torch.equal(drawn(mixture), drawn(mixture))
    assert not torch.allclose(drawn(mixture), drawn(mixture, **option))


def test_recomputation_draws_the_same_noise() -> None:
    """Activations computed again in the backward pass give the gradients of those kept."""
    recompute = ParallelConfig(
        recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1
    )
    tokens, labels, positions = batch()
    model = replace(MODEL, moe_importance_loss_coeff=0.3, moe_load_loss_coeff=0.2, hidden_dropout=0.1)
    results = []
    for parallel in (ParallelConfig(), recompute):
        gpt = shaken(initialized(model, parallel=parallel))
        seed_random_states(5)
        gpt(tokens, positions, None, labels=labels).mean().backward()
        results.append(gradients(gpt))
        assert routers(gpt)[0].tokens_per_expert.sum() == 2 * tokens.numel(), "each token counts once"
    assert_gradients_agree(results[1], results[0])


def test_cached_decoding() -> None:
    assert_completions_are_the_full_forward(shaken(initialized(MODEL)))
