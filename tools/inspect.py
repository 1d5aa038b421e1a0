"""Show what a stored model is: ``python -m tools.inspect model.nemo``. Its weights are not loaded."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.arguments import Arguments
from recipes.checkpoint.formats.recognise import check_stored
from recipes.cli import run_tool
from recipes.console import Progress, printable
from recipes.counts import counted, size_in_words
from recipes.errors import UserError

if TYPE_CHECKING:
    from recipes.checkpoint.formats.lazy import LazyTensor
    from recipes.checkpoint.stored.stored_model import StoredModel
    from recipes.families.model_config import ModelConfig

EXAMPLES = """examples:
  python -m tools.inspect outputs/quickstart/model.nemo
  python -m tools.inspect model_extracted --check
  python -m tools.inspect outputs/my_run --json | jq .model.num_layers

PATH is a .nemo of any NeMo version, the directory that it was unpacked to, a NeMo 2 directory, or a run of
this project or one of its checkpoints. Nothing in it is executed.

Exit code 0: no problems found in what was checked; 2: problems found, or PATH cannot be read.
"""
NUMBERS_AT_ONCE = 1 << 24  # Tested for being finite at the same time: their masks need memory too.


def main() -> None:
    """Prints the description; ends with the first problem, if any."""
    parser = Arguments(
        "tools.inspect", "Show what a stored model is and whether anything is wrong with it.", EXAMPLES
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a file or directory")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--check",
        action="store_true",
        help="read all weights once: compare checksums if the format has them, find non-finite numbers",
    )
    options = parser.parse_args()
    check_stored(options.path)
    from recipes.checkpoint.open import open_stored_model

    with open_stored_model(options.path, verify=options.check) as source:
        description, problems = describe(source)
        if options.check:
            problems += check(source.tensors.values())
    description["checked"] = options.check
    description["problems"] = problems
    print(json.dumps(description, indent=2) if options.json else as_text(description))
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise UserError(f"{problems[0]}{more}")


def describe(source: StoredModel) -> tuple[dict[str, Any], list[str]]:
    """The contents according to the files' indices, and what is inconsistent in them."""
    problems: list[str] = []
    tokenizer: dict[str, Any] | None = None
    # Weights that state their number of rows need no tokenizer, and torch_dist directories never have one.
    if source.tokenizer.blobs or source.needs_tokenizer:
        tokenizer = {"library": source.tokenizer.library, "file": source.tokenizer.name}
        try:
            loaded = source.text_tokenizer
            tokenizer |= {"pieces": loaded.vocab_size, "bos_id": loaded.bos_id, "eos_id": loaded.eos_id}
        except UserError as error:
            problems.append(str(error))
    model: dict[str, Any] | None = None
    try:
        model = _architecture(source.model)
    except UserError as error:
        if str(error) not in problems:
            problems.append(str(error))
    dtypes: Counter[str] = Counter()
    for tensor in source.tensors.values():
        dtypes[str(tensor.dtype).removeprefix("torch.")] += tensor.nbytes // tensor.dtype.itemsize
    return {
        "path": str(source.path),
        "kind": source.kind,
        "generation": source.generation,
        "version": source.version,
        "model": model,
        "tokenizer": tokenizer,
        "tensors": len(source.tensors),
        "stored_numbers": sum(dtypes.values()),
        "dtypes": dict(dtypes),
        "entries_not_looked_at": source.skipped,
        "files": dict(source.files),
        "bytes": sum(source.files.values()),
    }, problems


def _architecture(model: ModelConfig) -> dict[str, Any]:
    from recipes.families.model_config import kv_channels, num_query_groups, padded_vocab_size
    from recipes.plan.accounting import count_parameters

    described = {
        "family": model.family,
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_query_groups": num_query_groups(model),
        "kv_channels": kv_channels(model),
        "vocab_size": model.vocab_size,
        "padded_vocab_size": padded_vocab_size(model),
        "max_position_embeddings": model.max_position_embeddings,
        "normalization": model.normalization,
        "activation": model.activation,
        "position_embedding_type": model.position_embedding_type,
        "tied_embeddings": model.share_embeddings_and_output_weights,
        "parameters": count_parameters(model).total,
    }
    if model.num_moe_experts is not None:
        described |= {"num_moe_experts": model.num_moe_experts, "moe_router_topk": model.moe_router_topk}
    return described


def check(tensors: Any) -> list[str]:
    """Reads every tensor once, one at a time; returns what is wrong with them."""
    tensors = list(tensors)
    problems = []
    with Progress(sum(tensor.nbytes for tensor in tensors)) as progress:
        for tensor in tensors:
            if (problem := _problem(tensor)) is not None:
                problems.append(problem)
            progress.add(tensor.nbytes)
    return problems


def _problem(tensor: LazyTensor) -> str | None:
    import torch

    try:
        numbers = tensor.load(verify=True)
    except UserError as error:
        return str(error)
    if not numbers.is_floating_point():
        return None
    wrong = sum(int((~torch.isfinite(chunk)).sum()) for chunk in numbers.view(-1).split(NUMBERS_AT_ONCE))
    return f"{tensor.name}: {wrong:,} of {numbers.numel():,} numbers are not finite" if wrong else None


def as_text(described: dict[str, Any]) -> str:
    """The description as text."""
    model, tokenizer = described["model"], described["tokenizer"]
    lines = [("", f"{described['path']}: {described['kind']}")]
    if model is not None:
        lines += [
            (
                "model",
                f"{model['family']}, {counted(model['num_layers'], 'layer')}, "
                f"hidden {model['hidden_size']:,}, "
                f"FFN {model['ffn_hidden_size']:,} {model['activation']}, "
                f"{model['num_attention_heads']} heads "
                f"({model['num_query_groups']} key-value, {model['kv_channels']} wide)",
            ),
            (
                "",
                f"{model['normalization']}, {model['position_embedding_type']}, "
                f"{'tied' if model['tied_embeddings'] else 'untied'} embeddings, "
                f"{model['max_position_embeddings']:,} positions",
            ),
        ]
        if "num_moe_experts" in model:
            lines.append(("", f"{model['num_moe_experts']} experts, {model['moe_router_topk']} per token"))
        lines += [
            ("parameters", f"{model['parameters']:,}"),
            ("vocabulary", f"{model['vocab_size']:,}, {model['padded_vocab_size']:,} rows stored"),
        ]
    tokenizer_text = "none here"
    if tokenizer is not None:
        pieces = f", {tokenizer['pieces']:,} pieces" if "pieces" in tokenizer else ""
        tokenizer_text = f"{tokenizer['library']}{pieces}, {tokenizer['file']}"
    dtypes = ", ".join(f"{name} ({count:,} numbers)" for name, count in described["dtypes"].items())
    lines += [
        ("tokenizer", tokenizer_text),
        ("tensors", f"{described['tensors']}, {dtypes}"),
        ("weights", f"{counted(len(described['files']), 'file')}, {size_in_words(described['bytes'])}"),
        *(("", f"{size_in_words(size):>15}  {name}") for name, size in list(described["files"].items())[:8]),
    ]
    if len(described["files"]) > 8:
        lines.append(("", f"{len(described['files']) - 8} more files (--json names all)"))
    if described["entries_not_looked_at"]:
        lines.append(("left alone", f"{described['entries_not_looked_at']} extra and optimizer states"))
    none = "none" if described["checked"] else "none seen (--check reads the weights too)"
    lines += [
        ("problems" if not number else "", text)
        for number, text in enumerate(described["problems"] or [none])
    ]
    return "\n".join(
        f"{label:<12}{printable(text)}" if number else printable(text)
        for number, (label, text) in enumerate(lines)
    )


if __name__ == "__main__":
    run_tool(main)
