"""Completion: ``python -m recipes.generate gpt_model_file=model.nemo 'prompts=["..."]'``; see ``--help``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recipes.checkpoint.formats.recognise import check_stored
from recipes.config.hydra_app import run_job
from recipes.config.schema import GenerateConfig
from recipes.config.validate_jobs import validate_generate
from recipes.console import quiet_libraries
from recipes.data.text.json_lines import BadRecord, read_records, text_of
from recipes.errors import UserError
from recipes.files import check_writable


def run(config: GenerateConfig) -> int:
    """Completes or scores the prompts; prints them, or writes them beside the prompts' file."""
    validate_generate(config)
    check_stored(Path(config.gpt_model_file))
    if config.server:
        return _serve(config)
    output = _output_of(config)
    if output is not None:
        check_writable(output)
        if output.exists():
            raise UserError(f"{output} is there already: choose another file, output_jsonl=..., or remove it")
    prompts = list(config.prompts) or _read_prompts(Path(config.prompts_jsonl or ""))
    for number, prompt in enumerate(prompts, 1):
        _check_text(number, prompt)
    if config.dry_run:
        print(f"would complete {len(prompts)} prompt(s) with {config.gpt_model_file}")
        return 0
    quiet_libraries()
    from recipes.inference.complete import complete, score
    from recipes.inference.kept_lines import KeptLines
    from recipes.inference.text_model import load_text_model

    model = load_text_model(config.gpt_model_file, precision=config.precision, num_threads=config.num_threads)

    def results(first: int) -> Iterator[Any]:
        if config.inference.compute_logprob:
            return score(model, prompts[first:], config.inference)
        return complete(
            model, prompts, config.inference, batch_size=config.batch_size, seed=config.seed, first=first
        )

    if output is not None:
        with KeptLines(output, _decisive(config, prompts)) as kept:
            for result in results(kept.done):
                kept.append(_json(result))
        again = f", {kept.done:,} of them from before" if kept.done else ""
        print(f"wrote {len(prompts):,} lines to {output}{again}")
        return 0
    for result in results(0):
        print(_json(result) if config.json else _text(result), flush=True)
    return 0


def _decisive(config: GenerateConfig, prompts: list[str]) -> list[Any]:
    """Everything that completions depend on."""
    model = Path(config.gpt_model_file).resolve()
    changed = model.stat().st_mtime_ns
    settings = [asdict(config.inference), config.batch_size, config.seed, config.precision]
    return [str(model), changed, settings, prompts]


def _serve(config: GenerateConfig) -> int:
    """Answers requests over HTTP until it is stopped."""
    from recipes.server.serve import check_installed, listen, serve, url_of

    check_installed()
    with listen(config.serving.host, config.port) as listener:
        if config.dry_run:
            print(f"would serve {config.gpt_model_file} at {url_of(listener)}")
            return 0
        quiet_libraries()
        from recipes.inference.text_model import load_text_model

        model = load_text_model(
            config.gpt_model_file, precision=config.precision, num_threads=config.num_threads
        )
        return serve(config, model, listener)


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
    return json.dumps(asdict(result), ensure_ascii=False)


def _text(result: Any) -> str:
    if hasattr(result, "completion"):
        return f"{result.prompt}{result.completion}"
    return f"{result.prompt}\n  log-probability {sum(result.logprobs):.4f} over {len(result.logprobs)} tokens"


if __name__ == "__main__":
    run_job("generate", run)
