"""Completion: ``python -m recipes.generate gpt_model_file=model.nemo 'prompts=["..."]'``; see ``--help``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.checkpoint.formats.recognise import check_stored
from recipes.config.hydra_app import run_job
from recipes.config.schema import GenerateConfig, ParallelConfig
from recipes.config.validate_jobs import validate_generate
from recipes.config.world import launched_world
from recipes.console import Progress, on_terminal, quiet_libraries
from recipes.counts import counted
from recipes.data.text.json_lines import BadRecord, read_records, text_of
from recipes.errors import UserError
from recipes.files import check_writable
from recipes.inference.fast_reads import prepare_for_fast_reads
from recipes.inference.history import check_history
from recipes.inference.memory import memory_for
from recipes.parallel.first_rank import decided_by_first_rank
from recipes.parallel.interfaces import check_interfaces
from recipes.parallel.local_processes import named_first, run_in_processes

if TYPE_CHECKING:
    from recipes.inference.chat_template import ChatTemplate
    from recipes.inference.text_model import GPTTextModel


def start(config: GenerateConfig) -> int:
    """Runs the job, in as many processes as the model is split over."""
    validate_generate(config)
    check_stored(Path(config.gpt_model_file))
    if launched_world().size == 1 and not config.dry_run:
        from recipes.inference.layout import layout_of, processes_of

        processes = processes_of(layout_of(config))
        if processes > 1:
            return run_in_processes(processes)
    with named_first():
        return run(config)


def run(config: GenerateConfig) -> int:
    """Completes or scores prompts, or serves; see the settings."""
    validate_generate(config)
    check_stored(Path(config.gpt_model_file))
    prepare_for_fast_reads()  # Before torch is imported.
    if config.server:
        from recipes.server.serve import serve

        return serve(config)
    output = _output_of(config)
    if output is not None:
        check_writable(output)
        if output.exists():
            raise UserError(f"{output} is there already: choose another file, output_jsonl=..., or remove it")
    prompts = _prompts_of(config)
    if config.dry_run:
        what = "typed prompts" if config.interactive else counted(len(prompts), "prompt")
        print(f"would complete {what} with {config.gpt_model_file}")
        return 0
    if config.interactive:
        check_history(config.history_file)
    check_interfaces()
    quiet_libraries()
    chat = _chat(config)  # A missing one is told before the weights are read.
    model = _loaded(config)
    if config.interactive:
        from recipes.inference.interactive import converse

        _say_surprises(config, model)
        converse(model, config, chat)
        return 0
    with memory_for("these prompts", "lower batch_size, or give shorter ones"):
        if output is not None:
            _write(config, model, prompts, output, chat)
        else:
            texts = _texts(config, model, prompts, chat)
            _say_surprises(config, model)
            _show(texts)
    return 0


def _say_surprises(config: GenerateConfig, model: GPTTextModel) -> None:
    """After all that may be refused, which then is the only line."""
    from recipes.inference.surprises import say_surprises

    if _is_first():
        say_surprises(config.inference, model.max_sequence_length)


def _loaded(config: GenerateConfig) -> GPTTextModel:
    from recipes.inference.layout import layout_of, world_of
    from recipes.inference.text_model import load_text_model

    parallel = layout_of(config)
    return load_text_model(
        config.gpt_model_file,
        precision=config.precision,
        num_threads=config.num_threads,
        parallel=parallel,
        world=world_of(parallel),
        weights=config.weights,
    )


def _texts(
    config: GenerateConfig, model: GPTTextModel, prompts: list[str], chat: ChatTemplate | None
) -> Iterator[str]:
    """What is printed, as it comes."""
    from recipes.inference.complete import rows_of, stream

    if _is_streamed(config):
        (row,) = rows_of(model, prompts, config.inference, chat)
        parts = stream(model, row, config.inference, seed=config.seed, chat=chat)
        return chain([] if config.chat else prompts, parts, ["\n"])
    results = _results(config, model, prompts, 0, chat)
    return (f"{_json(result) if config.json else _text(result, config.chat)}\n" for result in results)


def _results(
    config: GenerateConfig, model: GPTTextModel, prompts: list[str], first: int, chat: ChatTemplate | None
) -> Iterator[Any]:
    from recipes.inference.complete import complete, score

    if config.inference.compute_logprob:
        return score(model, prompts[first:], config.inference)
    return complete(
        model,
        prompts,
        config.inference,
        batch_size=config.batch_size,
        seed=config.seed,
        first=first,
        chat=chat,
    )


def _chat(config: GenerateConfig) -> ChatTemplate | None:
    from recipes.inference.chat_template import template_of

    return template_of(config.gpt_model_file) if config.chat else None


def _write(
    config: GenerateConfig, model: GPTTextModel, prompts: list[str], output: Path, chat: ChatTemplate | None
) -> None:
    """Every completion is kept as soon as it is there; every rank makes them, the first one writes."""
    from recipes.inference.kept_lines import KeptLines

    kept: list[KeptLines] = []

    def begin() -> int:
        kept.append(KeptLines(output, _decisive(config, prompts)))
        return kept[0].done

    done = decided_by_first_rank(launched_world(), ParallelConfig.rendezvous_timeout_s, begin)
    with kept[0] if kept else nullcontext():
        results = _results(config, model, prompts, done, chat)
        _say_surprises(config, model)
        label = "scored" if config.inference.compute_logprob else "completed"
        with Progress(len(prompts), "prompt", label=label, done=done, enabled=bool(kept)) as progress:
            for result in results:
                if kept:
                    kept[0].append(_json(result))
                progress.add(1)
    if kept:
        again = f", {done:,} of them from before" if done else ""
        print(f"wrote {counted(len(prompts), 'line')} to {output}{again}")


def _decisive(config: GenerateConfig, prompts: list[str]) -> list[Any]:
    """Everything that completions depend on."""
    model = Path(config.gpt_model_file).resolve()
    changed = model.stat().st_mtime_ns
    settings = [asdict(config.inference), config.batch_size, config.seed, config.precision, config.chat]
    averaged = [config.weights] if config.weights != "trained" else []
    return [str(model), changed, settings, prompts, *averaged]


def _is_streamed(config: GenerateConfig) -> bool:
    """Whether text is shown while it is made: one prompt's, on a terminal, if nothing else is asked for."""
    if config.stream is not None:
        return config.stream
    plain = not (config.json or config.prompts_jsonl or config.inference.compute_logprob)
    # Another rank has no terminal: what all do may depend on settings alone.
    return plain and len(config.prompts) == 1 and (launched_world().size > 1 or sys.stdout.isatty())


def _show(parts: Iterable[str]) -> None:
    """Prints them as they come; every rank makes them, the first one's are shown."""
    for part in parts:
        if _is_first():
            print(on_terminal(part), end="", flush=True)


def _is_first() -> bool:
    return launched_world().rank == 0


def _prompts_of(config: GenerateConfig) -> list[str]:
    if config.interactive:
        return []
    prompts = list(config.prompts) or _read_prompts(Path(config.prompts_jsonl or ""))
    for number, prompt in enumerate(prompts, 1):
        _check_text(number, prompt)
    return prompts


def _output_of(config: GenerateConfig) -> Path | None:
    """The file for the completions of prompts_jsonl."""
    if not config.prompts_jsonl:
        return None
    return Path(config.output_jsonl or f"{config.prompts_jsonl}.completions.jsonl")


def _read_prompts(path: Path) -> list[str]:
    prompts = []
    for number, record in read_records(path):
        try:
            prompts.append(text_of(record, "text"))
        except BadRecord as bad:
            raise bad.at(path, number) from None
    if not prompts:
        raise UserError(f"prompts_jsonl={path}: no prompts in it")
    return prompts


def _check_text(number: int, prompt: str) -> None:
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UserError(f"prompt {number} is not UTF-8 text") from None


def _json(result: Any) -> str:
    given = {name: value for name, value in asdict(result).items() if value is not None}
    return json.dumps(given, ensure_ascii=False)


def _text(result: Any, chat: bool) -> str:
    if hasattr(result, "completion"):
        return result.completion.strip() if chat else f"{result.prompt}{result.completion}"
    tokens = counted(len(result.logprob), "token")
    return f"{result.prompt}\n  log-probability {sum(result.logprob):.4f} over {tokens}"


if __name__ == "__main__":
    run_job("generate", start)
