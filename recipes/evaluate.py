"""Evaluation: ``python -m recipes.evaluate gpt_model_file=model.nemo eval=param1_table``; see ``--help``."""

from __future__ import annotations

from pathlib import Path

from recipes.config.hydra_app import run_job
from recipes.config.schema import EvaluateConfig
from recipes.config.validate_jobs import validate_evaluate
from recipes.training.quiet import quiet_libraries


def run(config: EvaluateConfig) -> int:
    """Scores the model on the tasks, prints the table and writes the results."""
    validate_evaluate(config)
    output = results_path(config)
    if config.dry_run:
        print(f"would evaluate {config.gpt_model_file} on {', '.join(config.tasks)} and write {output}")
        return 0
    quiet_libraries()
    from recipes.evaluation.run import evaluate, write_results
    from recipes.evaluation.table import TableSpec, render
    from recipes.inference.text_model import load_text_model  # First: it prepares machines without CUDA.

    spec = TableSpec.from_config({"columns": config.columns, "rows": config.rows})
    model = load_text_model(config.gpt_model_file, precision=config.precision, num_threads=config.num_threads)
    model.name = config.name or model.name
    result = evaluate(
        model,
        list(config.tasks),
        minibench=Path(config.minibench) if config.minibench else None,
        mirror=Path(config.mirror) if config.mirror else None,
        limit=config.limit,
        num_fewshot=config.num_fewshot,
        max_batch_tokens=config.max_batch_tokens,
        bootstrap_iters=config.bootstrap_iters,
    )
    write_results(result, output)
    print(render([result], spec))
    print(f"results: {output}")
    return 0


def results_path(config: EvaluateConfig) -> Path:
    """Where the results go."""
    if config.output is not None:
        return Path(config.output)
    model_file = Path(config.gpt_model_file)
    return model_file.parent / "evaluation" / f"{config.name or model_file.stem}.json"


if __name__ == "__main__":
    run_job("evaluate", run)
