"""Describe a model: parameters per part, FLOPs and key-value cache per token; nothing is built."""

from __future__ import annotations

import argparse
import json
from typing import Any

from recipes.cli import run_tool

EXAMPLES = """examples:
  python -m tools.describe model=param1_2p9b
  python -m tools.describe model=tiny model.num_layers=8 --seq-length 128
  python -m tools.describe model=lumen_128m --json

Arguments are Hydra overrides, as for recipes.pretrain.
"""

BYTES_PER_CACHED_NUMBER = 2  # bf16


def main() -> None:
    """Composes the model's configuration and prints what follows from it by arithmetic."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.describe",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="+", help="model=NAME and settings of it")
    parser.add_argument("--seq-length", type=int, help="context for FLOPs (default: the model's longest)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    description = describe(options.overrides, options.seq_length)
    print(json.dumps(description, indent=2) if options.json else as_text(description))


def describe(overrides: list[str], seq_length: int | None = None) -> dict[str, Any]:
    """Numbers of the described model.

    Raises:
        UserError: the model or a setting of it is impossible.
    """
    from recipes.config.checks import refuse
    from recipes.config.hydra_app import compose
    from recipes.config.validate_model import validate_model
    from recipes.model import accounting

    model = compose("pretrain", ["name=describe", "data.seq_length=1", *overrides]).model
    validate_model(model)
    context = seq_length or model.max_position_embeddings
    if not 0 < context <= model.max_position_embeddings:
        refuse("--seq-length", context, f"must lie between 1 and {model.max_position_embeddings}")
    counts = accounting.count_parameters(model)
    groups, width = accounting.num_query_groups(model), accounting.kv_channels(model)
    return {
        "family": model.family,
        "parts": accounting.parameters_per_part(model),
        "parameters": counts.total,
        "non_embedding": counts.non_embedding,
        "active_per_token": counts.active_per_token,
        "padded_vocab_size": accounting.padded_vocab_size(model),
        "seq_length": context,
        "flops_per_token": accounting.flops_per_token(model, context),
        "kv_bytes_per_token": 2 * model.num_layers * groups * width * BYTES_PER_CACHED_NUMBER,
    }


def as_text(description: dict[str, Any]) -> str:
    """The same for people."""
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
    }
    return "\n".join([*lines, "", *(f"{name:<26}{value}" for name, value in facts.items())])


if __name__ == "__main__":
    run_tool(main)
