"""Where the results of an evaluation go, and whether they are there already; without torch.

Every evaluation has a file of its own, so that no results are ever replaced. An evaluation is the same as an
earlier one if all that its figures depend on is the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.checkpoint.save.manifest import MANIFEST, finished_checkpoints
from recipes.code_version import versions
from recipes.config.evaluation_schema import TextsConfig
from recipes.config.schema import EvaluateConfig
from recipes.data.benchmark_mirror import verified_hash
from recipes.errors import UserError
from recipes.evaluation.task_files import MINIBENCH_FILES, data_files_of, is_made_here
from recipes.files import path_errors, sha256_file
from recipes.report.evaluation_result import read_results
from recipes.run_directory import RunDirectory

_MAX_LABEL_CHARS = 80
FIGURES_DEPEND_ON = ("lm_eval", "datasets", "torch")


@dataclass(frozen=True)
class Place:
    """The file for the results of an evaluation."""

    path: Path
    finished: bool
    """Whether it holds the results of exactly this evaluation."""


def find_place(config: EvaluateConfig) -> Place:
    """The file that holds this evaluation's results or, if there is none, the one to write.

    Raises:
        UserError: the file that `output` names holds something else, or may not be written a second time.
    """
    if config.output is not None:
        return _named_place(config, Path(config.output))
    first = _directory(Path(config.gpt_model_file)) / f"{_label(config)}.json"
    if not config.repeat and first.exists():
        wanted = identity_of(config, settings_of(config))
        for path in itertools.takewhile(Path.exists, _numbered(first)):
            with suppress(UserError):  # Some other file of that name.
                if _difference(path, wanted) is None:
                    return Place(path, finished=True)
    return Place(free_path(first), finished=False)


def free_path(path: Path) -> Path:
    """The path itself or, if something is there, the first with a number behind it that is free."""
    return next(numbered for numbered in _numbered(path) if not numbered.exists())


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for number in itertools.count(2):
        yield path.with_stem(f"{path.stem}-{number}")


def _named_place(config: EvaluateConfig, path: Path) -> Place:
    if not path.exists():
        return Place(path, finished=False)
    try:
        other = _difference(path, identity_of(config, settings_of(config)))
    except UserError as error:
        raise UserError(f"{error}; choose another file, output=...") from None
    if other is not None:
        raise UserError(
            f"{path} holds the results of another evaluation ({other}); choose another file, output=..., or "
            "leave output out"
        )
    if config.repeat:
        raise UserError(
            f"repeat=true would replace {path}: choose another file, output=..., or leave output out"
        )
    return Place(path, finished=True)


def model_name(config: EvaluateConfig) -> str:
    """The model's name in the results."""
    averaged = "-ema" if config.weights == "ema" else ""
    return config.name or Path(config.gpt_model_file).stem + averaged


def settings_of(config: EvaluateConfig) -> dict[str, Any]:
    """What the figures depend on, besides the tasks."""
    own = [MINIBENCH_FILES[task] for task in sorted(set(config.tasks)) if task in MINIBENCH_FILES]
    return {
        "limit": config.limit,
        "num_fewshot": config.num_fewshot,
        "seed": config.seed,
        "bootstrap_iters": config.bootstrap_iters,
        "precision": config.precision,
        # Not in results of earlier versions.
        **({"weights": config.weights} if config.weights != "trained" else {}),
        "model_files": model_files(Path(config.gpt_model_file)),
        "minibench_sha256": {file: _sha256(Path(config.minibench or "", file)) for file in own},
        "texts": _texts(config.texts),
        "task_files": _task_files(config),
        "mirror_sha256": verified_hash(Path(config.mirror)) if config.mirror else None,
        "versions": versions(FIGURES_DEPEND_ON),
    }


def identity_of(config: EvaluateConfig, settings: dict[str, Any]) -> dict[str, Any]:
    """All by which an evaluation is recognised."""
    return {"name": model_name(config), "tasks": sorted(set(config.tasks)), **settings}


def _difference(path: Path, wanted: dict[str, Any]) -> str | None:
    """In what the results in a file are not the wanted ones; None if they are."""
    existing = read_results(path)
    found = {"name": existing.model, "tasks": sorted(set(existing.requested)), **existing.settings}
    for key, value in (wanted | {"weights": wanted.get("weights")}).items():
        if found.get(key) != value:
            return f"{key}={_brief(found.get(key))}"
    return None


def _directory(model: Path) -> Path:
    """Beside a model file; for a run and its checkpoints in the run, where its report finds them."""
    if RunDirectory(model).checkpoints.is_dir():
        return model / "evaluation"
    if RunDirectory(model.parent.parent).checkpoints == model.parent:
        return model.parent.parent / "evaluation"
    return model.parent / "evaluation"


def _label(config: EvaluateConfig) -> str:
    """The file's name tells the model, the tasks, and what keeps the figures from being the usual ones."""
    tasks = config.table or "+".join(config.tasks)
    if len(tasks) > _MAX_LABEL_CHARS:
        tasks = f"{config.tasks[0]}+{len(config.tasks) - 1}_tasks"
    label = f"{model_name(config)}-{tasks}"
    label += f"-{config.num_fewshot}shot" if config.num_fewshot else ""
    return label + (f"-limit{config.limit}" if config.limit is not None else "")


def model_files(model: Path) -> str:
    """A digest that changes with the model: what `settings_of` calls model_files.

    It is that of a training checkpoint's manifest, which has the checksums of its files, or else of the
    files' names, sizes and times: reading a large model as a whole takes minutes.
    """
    step = next(reversed(finished_checkpoints(RunDirectory(model).checkpoints)), model)
    if (step / MANIFEST).is_file():
        return sha256_file(step / MANIFEST)
    files = sorted(path for path in model.rglob("*") if path.is_file()) if model.is_dir() else [model]
    facts = [(str(path.relative_to(model)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _texts(texts: TextsConfig) -> dict[str, Any]:
    """What the bits per byte depend on; empty without texts."""
    if not texts.files:
        return {}
    sha256 = {name: _sha256(Path(path)) for name, path in sorted(texts.files.items())}
    return {**dataclasses.asdict(texts), "files": sha256}


def _task_files(config: EvaluateConfig) -> dict[str, str]:
    """Of every file in the directories, and of the data that tasks read from this machine: a change of any
    may change figures.
    """
    files = [path for directory in config.task_path for path in sorted(Path(directory).rglob("*"))]
    if config.task_path:
        names = [name for name in config.tasks if not is_made_here(name)]
        files += data_files_of(names, config.task_path)
    return {str(path): _sha256(path) for path in files if path.is_file() and "__pycache__" not in path.parts}


def _sha256(path: Path) -> str:
    with path_errors(path):
        return sha256_file(path)


def _brief(value: object) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, list) else "null" if value is None else str(value)
