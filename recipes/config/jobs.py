"""The Hydra jobs: their schemas, and what conf/ says about each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from recipes.arguments import first_command
from recipes.config.clean_schema import CleanConfig
from recipes.config.cluster_schema import ClusterJob
from recipes.config.schema import EvaluateConfig, GenerateConfig, PretrainConfig

CONF_DIR = Path(__file__).resolve().parents[2] / "conf"
SCHEMAS: dict[str, type] = {
    "pretrain": PretrainConfig,
    "generate": GenerateConfig,
    "evaluate": EvaluateConfig,
    "clean": CleanConfig,
    "cluster": ClusterJob,
}


def _job_file(job: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CONF_DIR / f"{job}.yaml").read_text(encoding="utf-8"))
    return content


def config_groups(job: str) -> list[str]:
    """The groups of conf/ that a job can choose from: those in its defaults list."""
    defaults = _job_file(job)["defaults"]
    return [group for entry in defaults if isinstance(entry, dict) for group in entry]


def group_options(group: str) -> list[str]:
    """What a group of conf/ offers."""
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))


def example(job: str) -> str:
    """The first command of the job's help."""
    return first_command(_job_file(job)["hydra"]["help"]["header"].partition("Examples\n")[2])
