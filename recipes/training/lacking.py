"""What a run still lacks that is trained, because its process was stopped before its end. No torch here."""

from __future__ import annotations

from recipes.checkpoint.nemo.stored_step import stored_step
from recipes.config.schema import PretrainConfig
from recipes.errors import UserError
from recipes.run_directory import RunDirectory, read_metrics

VALIDATION, BENCHMARK = "the final validation", "the final benchmark"
NEMO, REPORT = "model.nemo", "report.html"


def lacking(config: PretrainConfig, directory: RunDirectory, step: int) -> list[str]:
    """Of the end of a run whose last step is ``step``: what the settings ask for and is not there.

    An untrained model, of step 0, is neither measured nor reported on.
    """
    measured = _measured(directory, step)
    there = {
        VALIDATION: not (config.data.valid and step) or "valid" in measured,
        BENCHMARK: not (_scores(config) and step) or "eval" in measured,
        NEMO: _has_nemo_of(config, directory, step),
        REPORT: not step or _has_report(directory),
    }
    return [part for part, made in there.items() if not made]


def _scores(config: PretrainConfig) -> bool:
    return config.trainer.evaluation.every_n_steps is not None


def validated(directory: RunDirectory, step: int) -> bool:
    """Whether the run has a validation of ``step``."""
    return "valid" in _measured(directory, step)


def _measured(directory: RunDirectory, step: int) -> set[str]:
    """The first parts of all names of figures of ``step``. What was interrupted has no record."""
    records = read_metrics(directory.metrics_file)
    return {
        key.partition(".")[0] for record in records if record["step"] == step for key in record if "." in key
    }


def _has_nemo_of(config: PretrainConfig, directory: RunDirectory, step: int) -> bool:
    """Whether model.nemo holds the weights of ``step``, not of an earlier end (max_time, fewer max_steps)."""
    if not config.save_nemo:
        return step > 0
    if not directory.nemo_file.exists():
        return False
    try:
        return stored_step(directory.nemo_file) in (step, None)
    except UserError:
        return False


def _has_report(directory: RunDirectory) -> bool:
    """Of all that was measured."""
    if not directory.metrics_file.exists():  # Then there is nothing to report on.
        return True
    if not directory.report_file.exists():
        return False
    return directory.report_file.stat().st_mtime_ns >= directory.metrics_file.stat().st_mtime_ns
