"""A run and the cluster that it is meant for, from one list of settings."""

from __future__ import annotations

from recipes.checks import refuse
from recipes.config.cluster_schema import ClusterConfig
from recipes.config.hydra_app import compose
from recipes.config.jobs import group_options
from recipes.config.schema import PretrainConfig
from recipes.errors import UserError


def described(overrides: list[str]) -> tuple[PretrainConfig, ClusterConfig]:
    """The run and the cluster that the settings describe.

    Raises:
        UserError: a setting or a value does not exist or would be ignored, or no cluster is named.
    """
    cluster = described_cluster(overrides)
    config: PretrainConfig = compose("pretrain", settings_of_run(overrides))
    if config.plan.page is not None:
        refuse(
            "plan.page", config.plan.page, "would be ignored: recipes.pretrain writes it, with dry_run=true"
        )
    return config, cluster


def described_cluster(overrides: list[str]) -> ClusterConfig:
    """The cluster that the settings describe.

    Raises:
        UserError: a setting or a value does not exist, or no cluster is named.
    """
    of_cluster = [each for each in overrides if _is_cluster(each)]
    if not any(each.startswith("cluster=") for each in of_cluster):
        raise UserError(f"no cluster: add cluster=NAME, one of {', '.join(group_options('cluster'))}")
    cluster: ClusterConfig = compose("cluster", of_cluster).cluster
    return cluster


def settings_of_run(overrides: list[str]) -> list[str]:
    """Those of the settings that the job takes."""
    return [each for each in overrides if not _is_cluster(each)]


def _is_cluster(override: str) -> bool:
    return override.lstrip("+~").split("=")[0].split(".")[0] == "cluster"
