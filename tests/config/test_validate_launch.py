"""Launch settings that a scheduler would not understand, or would ignore."""

from __future__ import annotations

import pytest

from recipes.config.described_run import described
from recipes.config.hydra_app import compose
from recipes.config.jobs import group_options
from recipes.config.validate_launch import validate_launch
from recipes.errors import UserError

RUN = ["experiment=quickstart"]


@pytest.mark.parametrize("name", group_options("cluster"))
def test_every_shipped_cluster_is_valid(name: str) -> None:
    validate_launch(compose("cluster", [f"cluster={name}"]).cluster)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["scheduler=pbs"], "cluster.launch.scheduler=pbs: choose one of slurm, local"),
        (["time_limit=90min"], "write it as 24:00:00"),
        (["chain=0"], "cluster.launch.chain=0: must be positive"),
        (["container.runtime=docker"], "choose one of none, pyxis, apptainer"),
        (["container.runtime=pyxis"], "needs cluster.launch.container.image"),
        (["container.image=x"], "would be ignored: cluster.launch.container.runtime=none"),
        (
            ["container.runtime=pyxis", "container.image=x", "venv=y"],
            "cluster.launch.venv=y: would be ignored",
        ),
        (
            ["container.runtime=apptainer", "container.image=x", "container.file=x.sqsh"],
            "only pyxis reads it",
        ),
        (["container.runtime=pyxis", "container.image=x", "container.file=x"], "ends with .sqsh"),
        (["container.runtime=pyxis", "container.image=x", "container.mounts=[/data]"], "write SRC:DST"),
        (["health.pair_all_reduce_gb_per_s=-1"], "must be positive"),
        (["env={A-B:1}"], "is no name of a variable"),
    ],
)
def test_refused(settings: list[str], why: str) -> None:
    words = ["cluster=shakti_512xh100", *(f"cluster.launch.{each}" for each in settings)]
    with pytest.raises(UserError) as error:
        validate_launch(compose("cluster", words).cluster)
    assert why in str(error.value)


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("cluster.nodes=2", "on this machine only"),
        ("cluster.launch.partition=gpu", "only Slurm has it"),
        ("cluster.launch.exclude=[a]", "only Slurm has it"),
        ("cluster.launch.chain=3", "only Slurm has queues"),
        ("cluster.launch.health.node_all_reduce_gb_per_s=300", "only jobs of Slurm check their nodes"),
    ],
)
def test_refused_on_this_machine(setting: str, why: str) -> None:
    with pytest.raises(UserError) as error:
        validate_launch(compose("cluster", ["cluster=local", setting]).cluster)
    assert why in str(error.value)


def test_settings_go_where_they_belong() -> None:
    config, cluster = described([*RUN, "cluster=local", "cluster.gpus_per_node=4", "name=mine"])
    assert (config.name, cluster.gpus_per_node) == ("mine", 4)


def test_a_run_without_a_cluster_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(UserError, match=r"no cluster: add cluster=NAME, one of cpu_nodes, docker, local"):
        described(RUN)
