"""Describe a model: parameters per part, FLOPs and key-value cache per token; nothing is built."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.counts import count

if TYPE_CHECKING:
    from recipes.families.model_config import ModelConfig

EXAMPLES = """examples:
  python -m tools.describe model=param1_2p9b
  python -m tools.describe model=tiny model.num_layers=8 --seq-length 128
  python -m tools.describe model=param2_17b_a2p4b --json

Arguments are Hydra overrides, as for recipes.pretrain.
"""

BYTES_PER_CACHED_NUMBER = 2  # bf16


def main() -> None:
    """Composes the model's configuration and prints figures computed from it."""
    parser = Arguments("tools.describe", __doc__, EXAMPLES)
    parser.add_argument("overrides", nargs="+", help="model=NAME and settings of it")
    parser.add_argument("--seq-length", type=count, help="context for FLOPs (default: the model's longest)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    description = describe(options.overrides, options.seq_length)
    print(json.dumps(description, indent=2) if options.json else as_text(description))


def describe(overrides: list[str], seq_length: int | None = None) -> dict[str, Any]:
    """Numbers of the described model.

    Raises:
        UserError: the model or a setting of it is impossible.
    """
    from recipes.checks import refuse
    from recipes.config.hydra_app import compose
    from recipes.config.validate_model import validate_model
    from recipes.data.tokenizer.vocabulary import with_vocab_size
    from recipes.families.model_config import padded_vocab_size
    from recipes.plan import accounting

    config = compose("pretrain", ["name=describe", "data.seq_length=1", *overrides])
    model = with_vocab_size(config).model
    validate_model(model)
    context = model.max_position_embeddings if seq_length is None else seq_length
    if not 0 < context <= model.max_position_embeddings:
        refuse("--seq-length", context, f"must lie between 1 and {model.max_position_embeddings}")
    counts = accounting.count_parameters(model)
    return {
        "family": model.family,
        "parts": accounting.parameters_per_part(model),
        "parameters": counts.total,
        "non_embedding": counts.non_embedding,
        "active_per_token": counts.active_per_token,
        "padded_vocab_size": padded_vocab_size(model),
        "seq_length": context,
        "flops_per_token": accounting.flops_per_token(model, context),
        "kv_bytes_per_token": accounting.kv_bytes_per_token(model, BYTES_PER_CACHED_NUMBER),
        "kv_bytes_at_seq_length": accounting.kv_cache_bytes(model, context, BYTES_PER_CACHED_NUMBER),
        "layers": layer_table(model),
    }


def layer_table(model: ModelConfig) -> list[dict[str, Any]]:
    """One row per run of identical layers: first and last number, what they are, parameters of each."""
    from recipes.families.family import layer_windows
    from recipes.families.model_config import kv_channels, moe_layers, num_query_groups
    from recipes.plan.accounting import layer_parameters, lookups_of_layers

    heads = f"{model.num_attention_heads} heads, {num_query_groups(model)} key-value, "
    heads += f"{kv_channels(model)} wide"
    kinds = zip(
        layer_windows(model),
        moe_layers(model),
        lookups_of_layers(model),
        layer_parameters(model),
        strict=True,
    )
    rows: list[dict[str, Any]] = []
    for number, (window, is_moe, lookups, parameters) in enumerate(kinds):
        kind = {
            "attention": ", ".join([heads, *lookups]),
            "window": window,
            "mlp": _experts(model) if is_moe else f"{model.activation} {model.ffn_hidden_size:,}",
            "parameters": parameters,
        }
        if rows and {**rows[-1], "first": 0, "last": 0} == {**kind, "first": 0, "last": 0}:
            rows[-1]["last"] = number
        else:
            rows.append({"first": number, "last": number, **kind})
    return rows


def _experts(model: ModelConfig) -> str:
    from recipes.families.model_config import expert_width

    text = f"{model.moe_router_topk} of {model.num_moe_experts} {model.activation} {expert_width(model):,}"
    if model.moe_shared_expert_intermediate_size is not None:
        text += f" + shared {model.moe_shared_expert_intermediate_size:,}"
    return text


def as_text(description: dict[str, Any]) -> str:
    """The description as text."""
    parts = description["parts"]
    total = description["parameters"]
    width = max(map(len, parts)) + 2
    lines = [f"{name:<{width}}{count:>18,}  {100 * count / total:5.1f} %" for name, count in parts.items()]
    lines.append(f"{'total':<{width}}{total:>18,}")
    facts = {
        "non-embedding": f"{description['non_embedding']:,}",
        "active per token": f"{description['active_per_token']:,}",
        "vocabulary rows stored": f"{description['padded_vocab_size']:,}",
        "FLOPs per token": f"{description['flops_per_token'] / 1e9:,.3f} GFLOP",
        "  at a context of": f"{description['seq_length']:,} tokens",
        "key-value cache": f"{description['kv_bytes_per_token']:,} bytes per token (bf16)",
        "  at that context": f"{description['kv_bytes_at_seq_length'] / 2**20:,.2f} MiB, windows as they are",
    }
    facts_lines = [f"{name:<26}{value}" for name, value in facts.items()]
    return "\n".join([*_layer_lines(description["layers"]), "", *lines, "", *facts_lines])


def _layer_lines(rows: list[dict[str, Any]]) -> list[str]:
    table = [("layers", "attention", "sees", "MLP", "parameters each")]
    for row in rows:
        first, last = row["first"], row["last"]
        table.append(
            (
                str(first) if first == last else f"{first}-{last}",
                row["attention"],
                "everything" if row["window"] is None else f"{row['window']:,} tokens",
                row["mlp"],
                f"{row['parameters']:,}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]


if __name__ == "__main__":
    run_tool(main)
