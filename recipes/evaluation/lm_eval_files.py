"""Results as lm-eval writes them, for whatever reads those files."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Any

from recipes.errors import UserError
from recipes.files import check_writable, make_directory
from recipes.report.evaluation_result import EvaluationResult

SEEDS = {"random_seed": 0, "numpy_seed": 1234, "torch_seed": 1234}
"""lm-eval's own, for what is not drawn here."""


def write_lm_eval_files(
    directory: Path, report: dict[str, Any], result: EvaluationResult, *, log_samples: bool
) -> list[Path]:
    """Writes lm-eval's files of one evaluation with lm-eval's own writer.

    Args:
        report: what lm-eval's evaluator returned, with the samples.
        log_samples: every document with its prompt and answers too.

    Raises:
        UserError: they cannot be written.
    """
    from lm_eval.loggers import EvaluationTracker

    results = {key: value for key, value in report.items() if key != "samples"}
    samples = report["samples"]
    results |= _description(result)
    make_directory(directory)
    check_writable(directory / "results.json")
    tracker = EvaluationTracker(output_path=str(directory / "results.json"))  # It adds the date.
    tracker.general_config_tracker.log_experiment_args(
        model_source="param_recipes",
        model_args=results["config"]["model_args"],
        system_instruction=None,
        chat_template=None,
        fewshot_as_multiturn=False,
    )
    tracker.general_config_tracker.start_time = time.perf_counter() - result.seconds
    tracker.save_results_aggregated(results=results, samples=samples)
    written = [directory / f"results_{getattr(tracker, 'date_id', '')}.json"]
    if log_samples:
        for task, of_task in samples.items():
            # Copies, for it changes what it is given.
            tracker.save_results_samples(task_name=task, samples=[dict(sample) for sample in of_task])
            written.append(directory / f"samples_{task}_{tracker.date_id}.jsonl")
    for path in written:  # The writer only logs what goes wrong.
        if not path.is_file():
            raise UserError(f"{path} could not be written")
    return written


def _description(result: EvaluationResult) -> dict[str, Any]:
    """What lm-eval's `simple_evaluate` adds to the evaluator's report."""
    made, settings = result.made_with, result.settings
    versions, prefix = made["versions"], made["prefix_token"]
    return {
        "config": {
            "model": "param_recipes",
            "model_args": {
                "pretrained": result.model,
                "dtype": made.get("dtype"),
                "add_bos_token": made["document_start_id"] is not None,
            },
            "batch_size": None,
            "batch_sizes": [],
            "device": made["device"],
            "use_cache": None,
            "limit": settings["limit"],
            "bootstrap_iters": settings["bootstrap_iters"],
            "gen_kwargs": None,
            **SEEDS,
            "fewshot_seed": settings["seed"],
        },
        "git_hash": None,
        "date": datetime.fromisoformat(made["started"]).timestamp(),
        "pretty_env_info": "\n".join(f"{name}: {version}" for name, version in versions.items()),
        "transformers_version": versions.get("transformers"),
        "lm_eval_version": versions["lm_eval"],
        "upper_git_hash": None,
        "tokenizer_bos_token": [prefix["text"], str(prefix["id"])],
        "eot_token_id": made["eot_token_id"],
        "max_length": made["max_length"],
    }
