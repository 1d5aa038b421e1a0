"""Evaluation: ``python -m recipes.evaluate gpt_model_file=model.nemo eval=param1_table``; see ``--help``."""

from __future__ import annotations

from pathlib import Path

from recipes.config.hydra_app import run_job
from recipes.config.schema import EvaluateConfig
from recipes.config.validate_jobs import validate_evaluate
from recipes.console import quiet_libraries
from recipes.errors import UserError
from recipes.files import check_writable
from recipes.report.evaluation_result import read_results


def run(config: EvaluateConfig) -> int:
    """Scores the model on the tasks, prints the table and writes the results."""
    validate_evaluate(config)
    output = results_path(config)
    check_writable(output)
    _refuse_other_results(config, output)
    if config.dry_run:
        print(f"would evaluate {config.gpt_model_file} on {', '.join(config.tasks)} and write {output}")
        return 0
    quiet_libraries()
    from recipes.evaluation.run import evaluate, write_results
    from recipes.inference.text_model import load_text_model  # First: it prepares machines without CUDA.
    from recipes.report.evaluation_table import TableSpec, render

    spec = TableSpec(config.rows, config.columns)
    model = load_text_model(config.gpt_model_file, precision=config.precision, num_threads=config.num_threads)
    model.name = _model_name(config)
    result = evaluate(
        model,
        list(config.tasks),
        minibench=Path(config.minibench) if config.minibench else None,
        mirror=Path(config.mirror) if config.mirror else None,
        limit=config.limit,
        num_fewshot=config.num_fewshot,
        max_batch_tokens=config.max_batch_tokens,
        max_logits_bytes=config.max_logits_bytes,
        bootstrap_iters=config.bootstrap_iters,
    )
    print(render([result], spec), flush=True)  # First, so that hours are not lost if the write fails.
    write_results(result, output)
    print(f"results: {output}")
    return 0


def results_path(config: EvaluateConfig) -> Path:
    """Where the results go."""
    if config.output is not None:
        return Path(config.output)
    return Path(config.gpt_model_file).parent / "evaluation" / f"{_model_name(config)}.json"


def _refuse_other_results(config: EvaluateConfig, output: Path) -> None:
    """Only a repetition may overwrite results, as the default file name depends only on the model."""
    if not output.exists():
        return
    try:
        existing = read_results(output)
    except UserError as error:
        raise UserError(f"{error}; choose another file, output=...") from None
    keys = ("limit", "num_fewshot")
    found = {
        "name": existing.model,
        "tasks": sorted(set(existing.requested)),
        **{key: existing.settings.get(key) for key in keys},
    }
    requested = {
        "name": _model_name(config),
        "tasks": sorted(set(config.tasks)),
        **{key: getattr(config, key) for key in keys},
    }
    for key, value in found.items():
        if value != requested[key]:
            raise UserError(
                f"{output} holds the results of another evaluation ({key}={_brief(value)}); choose another "
                "file, output=..., or remove this one"
            )


def _model_name(config: EvaluateConfig) -> str:
    """The model's name in the results."""
    return config.name or Path(config.gpt_model_file).stem


def _brief(value: object) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, list) else "null" if value is None else str(value)


if __name__ == "__main__":
    run_job("evaluate", run)
