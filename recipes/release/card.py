"""The model card, README.md: facts of a run, and the template into which they go."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from recipes.config.schema import ParallelConfig
from recipes.config.timeline import timeline_of
from recipes.families.family import family_of, layer_windows
from recipes.families.model_config import (
    ModelConfig,
    expert_width,
    kv_channels,
    moe_layers,
    num_query_groups,
)
from recipes.plan.accounting import count_parameters, flops_by_length, flops_until, parameters_per_part
from recipes.plan.dry_run import schedule_in_words
from recipes.release.benchmark_tables import BenchmarkTable
from recipes.release.data_facts import SourceFacts
from recipes.release.finished_run import FinishedRun
from recipes.release.inference_script import Example
from recipes.report.figures import format_duration, format_number
from recipes.report.markdown import markdown_table
from recipes.report.rendering import render
from recipes.report.run_data import RunData, Series
from recipes.report.run_page import set_name, wall_time

LANGUAGES = {"en": "English", "hi": "Hindi"}
_HUB_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_SHOWN_INPUTS = 5


@dataclass(frozen=True)
class LlamaCppFacts:
    """What the card says about llama.cpp."""

    refusals: list[str]
    """Why it cannot run the model, or computes something else."""
    trial: str = ""
    """What was found when its commands were run on the exported model; empty: they were not."""


@dataclass(frozen=True)
class WeightFacts:
    """What only the stored model itself tells."""

    dtype: str
    """Of most weights, as torch names it."""
    document_start: str | None
    """The token that stood before every document; None: none did."""
    chats: bool
    """Whether it has a chat template."""


@dataclass(frozen=True)
class Card:
    """All that goes into a card besides the run's own records."""

    licence: str
    weights: WeightFacts
    sources: list[SourceFacts]
    tables: list[BenchmarkTable]
    examples: list[Example]
    llama_cpp: LlamaCppFacts
    verification: list[str]
    remarks: str = ""
    curves: list[str] = field(default_factory=list)


def write_card(run: FinishedRun, report: RunData, card: Card) -> str:
    """The text of README.md."""
    model = run.config.model
    architecture = family_of(model).architecture(model)
    prompts = [example.prompt for example in card.examples]
    prompt = json.dumps(prompts[0], ensure_ascii=False)
    languages = [code for code in LANGUAGES if any(_names(source.name, code) for source in card.sources)]
    return render(
        "recipes.release/model_card.md",
        name=run.name,
        licence=_licence(card.licence),
        languages=languages,
        limits={"language": _language_limit(languages)},
        parameters=count_parameters(model),
        parts=_parts(model),
        origin="the weights of another model" if run.config.init_from else "random weights",
        tokens=_tokens(run),
        complete=run.complete,
        step=run.step,
        steps=run.steps,
        architecture_name=architecture.name,
        remote_code=architecture.remote_code is not None,
        architecture=_two_columns(_architecture(model)),
        context=model.max_position_embeddings,
        settings=_two_columns(_settings(run, report, card.weights.dtype)),
        sources=_sources(card.sources),
        unknown_sources=[source.name for source in card.sources if source.files is None],
        document_start=card.weights.document_start,
        chats=card.weights.chats,
        conversations=run.config.data.conversations,
        tokenizer=_tokenizer(card.sources),
        valid=_valid(report),
        tables=card.tables,
        prompts_in_shell=" ".join(map(shlex.quote, prompts)),
        prompt_in_python=prompt,
        llama_cpp_command=shlex.quote(
            f'from llama_cpp import Llama; print(Llama("model.gguf")({prompt}, temperature=0))'
        ),
        examples=[_fenced(_shown(example, card.weights.chats)) for example in card.examples],
        llama_cpp=card.llama_cpp,
        has_learning_rate="learning_rate.svg" in card.curves,
        remarks=card.remarks,
        verification=card.verification,
    )


def _names(source: str, code: str) -> bool:
    """Whether a source's name says that it is of a language: hi, hi_web, web-hi."""
    return code in re.split(r"[_.-]", source.lower())


def _licence(given: str) -> dict[str, str]:
    """The Hugging Face hub knows licences by identifiers in lower case, any other as `other`."""
    if _HUB_LICENCE.fullmatch(given):
        return {"field": given, "name": "", "text": given}
    return {"field": "other", "name": _quoted(given), "text": given}


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _language_limit(languages: Sequence[str]) -> str:
    names = " and ".join(LANGUAGES[code] for code in languages)
    return f"It was trained on {names} text and is of little use in other languages." if names else ""


def _tokens(run: FinishedRun) -> int:
    return timeline_of(run.config).tokens(run.step)


def _architecture(model: ModelConfig) -> list[tuple[str, str]]:
    rows = [
        ("family", model.family),
        ("layers", f"{model.num_layers:,}"),
        ("width", f"{model.hidden_size:,}"),
        ("MLP", f"{model.activation}, {model.ffn_hidden_size:,} wide"),
        (
            "attention",
            f"{model.num_attention_heads:,} heads, {num_query_groups(model):,} key-value heads, "
            f"{kv_channels(model):,} wide" + (", queries and keys normed" if model.qk_layernorm else ""),
        ),
        ("vocabulary", f"{model.vocab_size:,}"),
        ("context", f"{model.max_position_embeddings:,} tokens"),
        ("positions", _positions(model)),
        ("norm", f"{model.normalization}, epsilon {model.layernorm_epsilon:g}"),
        ("output head", "tied to the embedding" if model.share_embeddings_and_output_weights else "its own"),
    ]
    windows = [window for window in layer_windows(model) if window is not None]
    if windows:
        rows.append(("windows", f"{len(windows):,} of the layers see {max(windows):,} tokens"))
    if any(moe_layers(model)):
        shared = model.moe_shared_expert_intermediate_size
        rows.append(
            (
                "experts",
                f"{sum(moe_layers(model)):,} layers of {model.num_moe_experts:,}, "
                f"{expert_width(model):,} wide, {model.moe_router_topk:,} for each token"
                + (f", and shared ones of {shared:,} for every token" if shared else ""),
            )
        )
    return rows


def _positions(model: ModelConfig) -> str:
    if model.position_embedding_type != "rope":
        return "learned"
    text = f"rotary, base {model.rotary_base:,}"
    if model.rotary_base_local is not None:
        text += f", {model.rotary_base_local:,} in layers with a window"
    return text + (f", {100 * model.rotary_percent:g} % of a head" if model.rotary_percent != 1.0 else "")


def _settings(run: FinishedRun, report: RunData, dtype: str) -> list[tuple[str, str]]:
    config = run.config
    trainer, tokens, timeline = config.trainer, _tokens(run), timeline_of(config)
    sizes = [f"{each.global_batch_size:,} x {each.seq_length:,}" for each in timeline.before(run.step)]
    flops = flops_until(run.step, timeline, flops_by_length(config.model, timeline))
    rows = [
        ("steps", f"{run.step:,} of {', then '.join(dict.fromkeys(sizes))} tokens"),
        ("tokens", f"{tokens:,}, {tokens / count_parameters(config.model).total:,.1f} per parameter"),
        ("FLOPs", f"{flops:.3g}"),
        ("optimizer", _optimizer(run)),
        ("learning rate", schedule_in_words(config)),
        ("precision", trainer.precision),
        ("weights", dtype),
        *_layout(config.parallel),
        ("seed", f"{config.seed}"),
    ]
    hardware, seconds = report.summary.get("hardware"), wall_time(report)
    if isinstance(hardware, str) and hardware:
        rows.append(("hardware", hardware))
    if seconds is not None:
        rows.append(("time", format_duration(seconds)))
    return rows


def _layout(parallel: ParallelConfig) -> list[tuple[str, str]]:
    """How a replica was split; how many replicas there were is not recorded."""
    sizes = {
        "tensor": parallel.tensor_model_parallel_size,
        "pipeline": parallel.pipeline_model_parallel_size,
        "context": parallel.context_parallel_size,
        "expert": parallel.expert_model_parallel_size,
    }
    split = ", ".join(f"{name} {size:,}" for name, size in sizes.items() if size > 1)
    return [("parallelism", split)] if split else []


def _optimizer(run: FinishedRun) -> str:
    optim = run.config.optim
    betas = "/".join(f"{beta:g}" for beta in optim.betas)
    clip = f", gradients clipped at {optim.clip_grad:g}" if optim.clip_grad else ""
    return f"{optim.name}, betas {betas}, weight decay {optim.weight_decay:g}{clip}"


def _parts(model: ModelConfig) -> str:
    counts = count_parameters(model)
    rows = {
        **parameters_per_part(model),
        "**all**": counts.total,
        "without the tables of the vocabulary": counts.non_embedding,
    }
    if counts.active_per_token != counts.total:
        rows["used for one token"] = counts.active_per_token
    lines = [[name, f"{number:,}"] for name, number in rows.items()]
    return "\n".join(markdown_table(["parameters", ""], lines, texts=1))


def _sources(sources: Sequence[SourceFacts]) -> str:
    header = [
        "source",
        "made of",
        "share",
        "tokens read",
        "epochs",
        "tokens it holds",
        "documents",
        "bytes of text",
    ]
    lines = [
        [
            _cell(source.name),
            _few(source.inputs),
            f"{100 * source.share:.2f} %",
            f"{source.tokens_read:,}",
            "not known" if source.epochs is None else f"{source.epochs:.2f}",
            _count(source.tokens),
            _count(source.documents),
            _count(source.text_bytes),
        ]
        for source in sources
    ]
    return "\n".join(markdown_table(header, lines))


def _tokenizer(sources: Sequence[SourceFacts]) -> str:
    digests = {file["tokenizer_sha256"] for source in sources for file in source.files or []} - {None}
    return f"The tokenizer's SHA-256 begins with {min(digests)[:16]}." if len(digests) == 1 else ""


def _valid(report: RunData) -> str:
    """Empty if nothing was held out."""

    def last(metrics: Mapping[str, Series], key: str) -> str:
        value = metrics[key].last if key in metrics else None
        return "-" if value is None else format_number(value)

    lines = [
        [_cell(set_name(name)), last(metrics, "bits_per_byte"), last(metrics, "loss")]
        for name, metrics in report.valid.items()
    ]
    header = ["held-out text", "bits per byte", "loss (nats per token)"]
    return "\n".join(markdown_table(header, lines, texts=1)) if lines else ""


def _two_columns(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(markdown_table(["", ""], [[name, _cell(value)] for name, value in rows]))


def _cell(text: str) -> str:
    """A text that cannot end its cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _count(number: int | None) -> str:
    return "not known" if number is None else f"{number:,}"


def _few(names: Sequence[str]) -> str:
    """The first names of a list that may be long."""
    shown = ", ".join(f"`{_cell(name)}`" for name in names[:_SHOWN_INPUTS])
    more = f" and {len(names) - _SHOWN_INPUTS:,} more" if len(names) > _SHOWN_INPUTS else ""
    return f"{shown}{more}" or "not known"


def _shown(example: Example, chats: bool) -> str:
    if chats:
        return f"User: {example.prompt}\nModel: {example.completion.strip()}"
    return f"{example.prompt}{example.completion}"


def _fenced(text: str) -> str:
    """A text shown as it is, whatever characters it has."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
