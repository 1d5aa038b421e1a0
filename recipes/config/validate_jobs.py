"""Refuses impossible settings of completion and evaluation before anything heavy is imported."""

from __future__ import annotations

import math
import re
import tarfile
from pathlib import Path

from recipes.checks import hub_hint, not_negative, of_a_machine, one_of, positive, refuse, refuse_ignored
from recipes.config.evaluation_schema import EvaluationConfig, TextsConfig
from recipes.config.evaluation_tables import with_table
from recipes.config.foreign_keys import FOREIGN_VALUES
from recipes.config.logit_bias import read_logit_bias
from recipes.config.schema import EvaluateConfig, GenerateConfig, InferenceConfig
from recipes.config.validate_serving import validate_no_serving, validate_serving
from recipes.config.world import launched_world
from recipes.errors import UserError
from recipes.files import path_errors, refuse_lfs_pointer

TEMPERATURES = (0.001, 1000.0)
"""Beyond them float32 logits overflow, or all tokens are equally likely."""
PRECISIONS = ("auto", "bf16", "fp32")
WEIGHTS = ("trained", "ema")
METRIC = re.compile(r"[^,\s]+,[^,\s]+")  # The metric, and the filter applied to the answers.


def validate_inference(inference: InferenceConfig, key: str = "inference") -> None:
    """Checks the sampling options under ``key``."""
    low, high = TEMPERATURES
    if not low <= inference.temperature <= high:
        fix = f"must lie between {low} and {high}; for the likeliest token use {key}.greedy=true"
        refuse(f"{key}.temperature", inference.temperature, fix)
    if inference.top_k < 0:
        refuse(f"{key}.top_k", inference.top_k, "must not be negative; 0 turns it off")
    if not 0 <= inference.top_p <= 1:
        refuse(f"{key}.top_p", inference.top_p, "must lie between 0 and 1; 0 turns it off")
    if not 0 <= inference.min_p < 1:
        refuse(f"{key}.min_p", inference.min_p, "must lie between 0 and 1; 0 turns it off")
    if not 1 <= inference.repetition_penalty < math.inf:
        refuse(f"{key}.repetition_penalty", inference.repetition_penalty, "must be at least 1")
    one_of(f"{key}.repetition_penalty_style", inference.repetition_penalty_style, ("nemo", "ctrl"))
    read_logit_bias(inference.logit_bias, f"{key}.logit_bias")
    if not inference.compute_logprob or inference.tokens_to_generate:  # NeMo's users score with 0.
        positive(f"{key}.tokens_to_generate", inference.tokens_to_generate)
    one_of(f"{key}.count_from", inference.count_from, ("longest", "each"))
    if not all(inference.end_strings):
        refuse(f"{key}.end_strings", list(inference.end_strings), "an empty text ends everything; remove it")
    if not 0 <= inference.min_tokens_to_generate <= inference.tokens_to_generate:
        refuse(
            f"{key}.min_tokens_to_generate",
            inference.min_tokens_to_generate,
            f"must lie between 0 and tokens_to_generate={inference.tokens_to_generate}",
        )


def validate_generate(config: GenerateConfig) -> None:
    """Checks a completion job."""
    validate_model_file(config.gpt_model_file)
    one_of("weights", config.weights, WEIGHTS)
    one_of("precision", config.precision, PRECISIONS, FOREIGN_VALUES)
    validate_inference(config.inference)
    positive("batch_size", config.batch_size)
    if not 0 <= config.seed < 2**63:
        refuse("seed", config.seed, f"must lie between 0 and {2**63 - 1:,}")
    if config.num_threads is not None:
        of_a_machine("num_threads", config.num_threads)
    for name in ("tensor_model_parallel_size", "pipeline_model_parallel_size"):
        size = getattr(config, name)
        if size < 1 and size != -1:
            refuse(name, size, "must be at least 1, or -1 for what the file says")
    if config.server:
        if config.chat:
            refuse("chat", True, "would be ignored: a server answers /v1/chat/completions anyway")
        validate_serving(config)
    else:
        validate_no_serving(config)
        _validate_way_of_asking(config)


def _validate_way_of_asking(config: GenerateConfig) -> None:
    """Prompts in a list, in a file, or typed; and what goes with each."""
    if config.interactive:
        for name in ("prompts", "prompts_jsonl", "json", "stream"):
            if getattr(config, name):
                value = getattr(config, name)
                refuse(
                    name, value, "would be ignored with interactive=true: prompts are typed, text is shown"
                )
        if config.batch_size != GenerateConfig.batch_size:
            refuse(
                "batch_size", config.batch_size, "would be ignored with interactive=true: one text is made"
            )
        if config.inference.compute_logprob:
            refuse("interactive", True, "inference.compute_logprob=true scores prompts; take one of the two")
    elif bool(config.prompts) == bool(config.prompts_jsonl):
        raise UserError("prompts: give either prompts or prompts_jsonl, for example 'prompts=[\"भारत में\"]'")
    if config.chat and config.inference.compute_logprob:
        refuse("chat", True, "inference.compute_logprob=true scores prompts; take one of the two")
    if config.chat and config.inference.add_BOS is not None:
        refuse("inference.add_BOS", config.inference.add_BOS, "would be ignored: the chat template decides")
    if config.history_file and not config.interactive:
        refuse("history_file", config.history_file, "would be ignored: it goes with interactive=true")
    if config.prompts_jsonl and not Path(config.prompts_jsonl).is_file():
        refuse("prompts_jsonl", config.prompts_jsonl, "no such file")
    if config.output_jsonl and not config.prompts_jsonl:
        refuse("output_jsonl", config.output_jsonl, "would be ignored: it goes with prompts_jsonl")
    if config.inference.all_probs and not (config.json or config.prompts_jsonl):
        refuse("inference.all_probs", True, "would be ignored: numbers need json=true or prompts_jsonl")
    if config.stream:
        _validate_stream(config)


def _validate_stream(config: GenerateConfig) -> None:
    for name in ("prompts_jsonl", "json"):
        if getattr(config, name):
            refuse(
                "stream", True, f"text is printed as it comes; {name} wants whole ones: remove one of them"
            )
    if len(config.prompts) > 1:
        refuse("stream", True, f"{len(config.prompts)} prompts would be mixed; give one")
    if config.inference.compute_logprob:
        refuse("stream", True, "inference.compute_logprob=true writes no text; remove one of them")


def validate_evaluate(config: EvaluateConfig) -> None:
    """Checks an evaluation job."""
    _validate_evaluated(config)
    one_of("weights", config.weights, WEIGHTS)
    one_of("precision", config.precision, PRECISIONS, FOREIGN_VALUES)
    if config.table == "bits_per_byte" and not config.texts.files:
        raise UserError("texts.files={}: name the texts, for example texts.files.hi=hindi.jsonl")
    if not config.tasks and not config.texts.files:
        raise UserError("tasks=[]: nothing to evaluate; choose eval=minibench or 'tasks=[hellaswag_hi]'")
    for key in ("minibench", "mirror"):
        directory = getattr(config, key)
        if directory is not None and not Path(directory).is_dir():
            refuse(key, directory, "no such directory")
    validate_texts(config.texts)
    if config.minibench is None and any(task.startswith("minibench") for task in config.tasks):
        raise UserError(
            "minibench=null: name the generated benchmark's directory, minibench=<corpus>/benchmark"
        )
    if config.limit is not None:
        positive("limit", config.limit)
    if config.num_threads is not None:
        of_a_machine("num_threads", config.num_threads)
    not_negative("num_fewshot", config.num_fewshot)
    if not 0 <= config.seed < 2**32:
        refuse("seed", config.seed, f"must lie between 0 and {2**32 - 1:,}")
    not_negative("bootstrap_iters", config.bootstrap_iters)
    positive("max_batch_tokens", config.max_batch_tokens)
    positive("max_logits_bytes", config.max_logits_bytes)
    _validate_check(config)
    _validate_layout(config)
    _validate_table(config)


def _validate_check(config: EvaluateConfig) -> None:
    """What the file holds, recipes/report/published.py reads."""
    if config.check_column is not None and config.check is None:
        refuse("check_column", config.check_column, "would be ignored: it belongs to check=FILE")
    if config.check is None:
        return
    if not Path(config.check).is_file():
        refuse("check", config.check, "no such file; give a YAML file with the published figures")
    if config.bootstrap_iters == 0:
        refuse("bootstrap_iters", 0, "check needs standard errors; set 1,000")


def _validate_layout(config: EvaluateConfig) -> None:
    """How it fits the model, only the model can tell."""
    for key in ("tensor_model_parallel_size", "pipeline_model_parallel_size"):
        positive(key, getattr(config, key))
    tp, pp, launched = (
        config.tensor_model_parallel_size,
        config.pipeline_model_parallel_size,
        launched_world().size,
    )
    if launched % (tp * pp) and not config.dry_run:
        raise UserError(
            f"tensor_model_parallel_size={tp}, pipeline_model_parallel_size={pp}: they need a multiple of "
            f"{tp * pp} processes, there are {launched}; launch with torchrun --nproc-per-node {tp * pp}"
        )


def _validate_evaluated(config: EvaluateConfig) -> None:
    if config.run is None:
        if config.checkpoints is not None:
            refuse("checkpoints", config.checkpoints, "would be ignored: it goes with run")
        if not config.gpt_model_file:
            raise UserError("gpt_model_file has no value: set it on the command line, gpt_model_file=...")
        validate_model_file(config.gpt_model_file)
        return
    for key in ("gpt_model_file", "name", "output"):
        if value := getattr(config, key):
            refuse(key, value, "does not go with run, whose checkpoints have their own files; leave it out")
    if config.check is not None:
        refuse(
            "check", config.check, "does not go with run: compare one of its checkpoints, gpt_model_file=..."
        )
    if not re.fullmatch(r"all|[1-9]\d*", config.checkpoints or "all"):
        refuse("checkpoints", config.checkpoints, "must be all, or how many of the newest")
    if not Path(config.run, "checkpoints").is_dir():
        refuse("run", config.run, "is no directory of a run: it has no checkpoints/")


def validate_texts(texts: TextsConfig) -> None:
    """Checks the texts whose bits per byte are asked for."""
    for name, path in texts.files.items():
        if not re.fullmatch(r"\w+", name):
            refuse("texts.files", name, "a name is made of letters, digits and _")
        if not Path(path).is_file():
            refuse(f"texts.files.{name}", path, "no such file")
    for key in ("window", "stride"):
        if (value := getattr(texts, key)) is not None:
            positive(f"texts.{key}", value)
    if texts.stride is not None and texts.window is not None and texts.stride > texts.window:
        refuse("texts.stride", texts.stride, f"would leave tokens out: at most texts.window={texts.window:,}")


def validate_evaluation(evaluation: EvaluationConfig, context_parallel_size: int) -> None:
    """Checks the benchmark that a run is measured with during training."""
    key = "trainer.evaluation"
    if evaluation.every_n_steps is None:
        refuse_ignored(key, evaluation, f"set {key}.every_n_steps")
        return
    positive(f"{key}.every_n_steps", evaluation.every_n_steps)
    planned = with_table(evaluation)
    if not planned.tasks:
        raise UserError(f"{key}.tasks=[]: nothing to evaluate; choose {key}.table=minibench, or name tasks")
    if context_parallel_size > 1:
        refuse(
            f"{key}.every_n_steps",
            evaluation.every_n_steps,
            f"does not go with parallel.context_parallel_size={context_parallel_size}, which splits every "
            "sequence; set it to null and evaluate the checkpoints",
        )
    for name in ("minibench", "mirror"):
        directory = getattr(evaluation, name)
        if directory is not None and not Path(directory).is_dir():
            refuse(f"{key}.{name}", directory, "no such directory")
    if evaluation.minibench is None and any(task.startswith("minibench") for task in planned.tasks):
        raise UserError(
            f"{key}.minibench=null: name the generated benchmark's directory, "
            f"{key}.minibench=<corpus>/benchmark"
        )
    if planned.limit is not None:
        positive(f"{key}.limit", planned.limit)
    not_negative(f"{key}.num_fewshot", planned.num_fewshot or 0)
    positive(f"{key}.max_batch_tokens", evaluation.max_batch_tokens)
    positive(f"{key}.max_logits_bytes", evaluation.max_logits_bytes)


def _validate_table(config: EvaluateConfig) -> None:
    if config.columns and not config.rows:
        refuse("columns", config.columns, "would be ignored: they belong to rows; set rows, or columns=[]")
    for number, row in enumerate(config.rows):
        key = f"rows[{number}]"
        for name in ("name", "task", "metric"):
            if not getattr(row, name).strip():
                refuse(f"{key}.{name}", repr(getattr(row, name)), "is empty; every row needs one")
        if not METRIC.fullmatch(row.metric):
            refuse(f"{key}.metric", row.metric, f"give lm-eval's full name, {row.metric.split(',')[0]},none")
        if row.published and len(row.published) != len(config.columns):
            refuse(
                f"{key}.published",
                row.published,
                f"must have a figure for each of the {len(config.columns)} columns, or none at all",
            )


# recipes/checkpoint/open.py, which this module does not load, recognises a directory by one of these.
MARKS = ("model_config.yaml", "context/model.yaml", "checkpoints", "manifest.json", "config.json")


def validate_model_file(path: str) -> None:
    """A .nemo file or a directory with a model."""
    target = Path(path)
    with path_errors(path):
        if not target.exists():
            hub = hub_hint(path)
            refuse(
                "gpt_model_file",
                path,
                f"no such file; {hub or 'give a .nemo file or a directory with a model'}",
            )
        if target.is_dir() and not any((target / mark).exists() for mark in MARKS):
            refuse("gpt_model_file", path, f"this directory holds no model: none of {', '.join(MARKS)}")
        if target.is_file():
            refuse_lfs_pointer(target)
            if not tarfile.is_tarfile(target):
                refuse("gpt_model_file", path, "is no .nemo archive; give one, or a directory with a model")
