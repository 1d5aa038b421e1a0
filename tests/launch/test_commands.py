"""What is started, word for word. Nothing is."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import tools.launch
from recipes.config.hydra_app import compose
from recipes.config.validate import validate_pretrain
from recipes.errors import UserError
from recipes.launch.command import PROJECT, Command
from recipes.launch.local import local_command
from recipes.launch.slurm import CLEARED, SCRIPT, submission
from tests.support.paths import ROOT

RUN = ["experiment=param1_2p9b", "data.train={a: {path: 'x, $y'}}"]
TRAIN = ("recipes.pretrain", RUN)


def slurm(*settings: str) -> Command:
    cluster = compose(
        "cluster", ["cluster=shakti_512xh100", *(f"cluster.{each}" for each in settings)]
    ).cluster
    return submission(cluster, Path("outputs/param1"), RUN)


@pytest.fixture(autouse=True)
def clean_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CLEARED:
        monkeypatch.delenv(name, raising=False)


def test_slurm() -> None:
    command = slurm(
        "launch.account=lm", "launch.exclude=[node07,'node[10-12]']", "launch.env.NCCL_IB_HCA=mlx5"
    )
    words = list(command.words)
    assert words[0] == "sbatch" and words[-3:] == ["docker/slurm/pretrain.sbatch", *RUN]
    expected = {"--nodes=64", "--ntasks-per-node=8", "--gpus-per-node=8", "--account=lm", "--time=24:00:00"}
    assert expected | {
        "--exclude=node07,node[10-12]",
        "--signal=B:USR1@600",
        "--output=outputs/param1/logs/slurm/%j.out",
    } <= set(words)
    assert not any(word.startswith(("--partition", "--mail", "--dependency")) for word in words)
    floors = {f"HEALTH_{kind}_ALL_REDUCE_GB_PER_S": "300" for kind in ("NODE", "PAIR")}
    limits = {"MAX_REQUEUE": "100", "MAX_FAILURES": "3", "STOP_BEFORE_LIMIT_S": "600"}
    assert command.env == {"NCCL_IB_HCA": "mlx5", **limits, **floors}


def test_what_is_shown_can_be_pasted() -> None:
    command = slurm("launch.env.NCCL_SOCKET_IFNAME='eth0,eth1 x'")
    words = shlex.split(str(command))
    assert words[: len(command.env)] == [f"{name}={value}" for name, value in command.env.items()]
    assert words[len(command.env) :] == list(command.words)


@pytest.mark.parametrize("nodes", [2, 64])
def test_a_run_has_as_many_processes_as_the_cluster_has_gpus(
    nodes: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However many its experiment was meant for: what is submitted is understood by each of them."""
    words = ["experiment=param1_2p9b", "cluster=shakti_512xh100", f"cluster.nodes={nodes}", "dry_run=true"]
    assert compose("pretrain", words[:1]).parallel.world_size == 512
    monkeypatch.setattr(sys, "argv", ["launch", *words])
    tools.launch.main()
    submitted = shlex.split(capsys.readouterr().out)
    of_run = submitted[submitted.index(SCRIPT) + 1 :]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(8 * nodes))
    assert validate_pretrain(compose("pretrain", of_run)) == 8 * nodes
    monkeypatch.setattr(sys, "argv", ["launch", *words, "parallel.world_size=256"])
    with pytest.raises(UserError, match=f"^parallel.world_size=256: the cluster has {8 * nodes} GPUs"):
        tools.launch.main()


def test_saves_that_do_not_end_before_the_time_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Param-1's take 5 s on 512 GPUs, by what a plan assumes."""
    words = ["launch", "experiment=param1_2p9b", "cluster=shakti_512xh100", "dry_run=true"]
    for notice, warned in ((11, False), (10, True)):
        monkeypatch.setattr(sys, "argv", [*words, f"cluster.launch.stop_before_limit_s={notice}"])
        tools.launch.main()
        error = f"warning: cluster.launch.stop_before_limit_s={notice}: after the signal 2 saves of 5 s may"
        assert (error in capsys.readouterr().err) == warned


def test_a_chain_of_jobs() -> None:
    command = slurm("launch.chain=5")
    assert {"--dependency=singleton", "--no-requeue"} <= set(command.words)
    assert command.env["MAX_REQUEUE"] == "0"


def test_pyxis() -> None:
    settings = (
        "runtime=pyxis",
        "image=registry.example.org/x:1",
        "file=/shared/x.sqsh",
        "mounts=['/data:/data:ro']",
    )
    env = slurm(*(f"launch.container.{each}" for each in settings)).env
    assert env["CONTAINER_RUNTIME"] == "pyxis"
    assert env["CONTAINER_IMAGE"] == "registry.example.org/x:1"
    assert (env["CONTAINER_FILE"], env["CONTAINER_MOUNTS"]) == ("/shared/x.sqsh", "/data:/data:ro")


def test_every_variable_is_one_that_the_script_explains() -> None:
    script = (ROOT / SCRIPT).read_text(encoding="utf-8")
    for name in {*CLEARED, *slurm().env}:
        assert f"#   {name} " in script


def test_leftovers_of_the_shell_do_not_reach_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRY_RUN", "1")
    monkeypatch.setenv("VENV", "/old")
    assert list(slurm().words[:6]) == ["env", "-u", "VENV", "-u", "DRY_RUN", "sbatch"]
    assert list(slurm("launch.venv=/new").words[:4]) == ["env", "-u", "DRY_RUN", "sbatch"]


def test_this_machine() -> None:
    one = local_command(compose("cluster", ["cluster=local"]).cluster, *TRAIN)
    assert one.words == [sys.executable, "-m", "recipes.pretrain", *RUN]
    four = local_command(compose("cluster", ["cluster=local", "cluster.gpus_per_node=4"]).cluster, *TRAIN)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    assert four.words == [sys.executable, *launcher, "-m", "recipes.pretrain", *RUN]


def test_on_this_machine_paths_are_those_of_the_user(tmp_path: Path) -> None:
    """In an image the project directory cannot be written."""
    code = "from recipes.launch.command import Command; Command(['pwd'], {}).replace_process()"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout == f"{tmp_path}\n", done.stderr


def test_docker() -> None:
    settings = ["cluster.launch.container.mounts=['/data:/data']", "cluster.launch.env.A='b c'"]
    words = list(local_command(compose("cluster", ["cluster=docker", *settings]).cluster, *TRAIN).words)
    image = words.index("param-recipes")
    assert words[image + 1 :] == ["python", "-m", "recipes.pretrain", *RUN]
    options = words[:image]
    assert options[:2] == ["docker", "run"] and "--gpus=all" in options
    assert ["--volume", f"{PROJECT}:{PROJECT}", "--volume", "/data:/data", "--env", "A=b c"] == options[-6:]
    assert f"{os.getuid()}:{os.getgid()}" in options
    without = local_command(
        compose("cluster", ["cluster=docker", "cluster.launch.request_gpus=false"]).cluster, *TRAIN
    )
    assert "--gpus=all" not in without.words
