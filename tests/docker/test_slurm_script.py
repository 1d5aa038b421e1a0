"""The Slurm job script: syntax, lint, and what it would start. No Slurm is needed."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [ROOT / "docker/slurm/pretrain.sbatch", ROOT / "docker/slurm/task.sh"]
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "CONTAINER", "MAX_", "VENV"))}


def tool(name: str) -> str:
    path = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def dry_run(*overrides: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPTS[0]), *overrides],
        env=CLEAN | {"DRY_RUN": "1"} | env,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def srun_words(*overrides: str, **env: str) -> list[str]:
    done = dry_run(*overrides, **env)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax_and_lint(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    done = subprocess.run([tool("shellcheck"), "--shell=bash", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_job_options() -> None:
    lines = SCRIPTS[0].read_text(encoding="utf-8").splitlines()
    options = {
        line.removeprefix("#SBATCH ").partition(" ")[0] for line in lines if line.startswith("#SBATCH")
    }
    assert {"--signal=B:USR1@300", "--requeue", "--open-mode=append"} <= options
    # sbatch stops reading options at the first command.
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(i < first_command for i, line in enumerate(lines) if line.startswith("#SBATCH"))


def test_virtual_environment() -> None:
    words = srun_words("experiment=lumen_128m", "data.train={a: 1}", VENV="/some/venv")
    assert words[0] == "srun"
    assert {"--kill-on-bad-exit=1", "--wait=60", "--open-mode=append"} <= set(words)
    assert "--output=outputs/lumen_128m/logs/slurm/%j.0.%N.log" in words
    assert not any(word.startswith("--container") for word in words)
    start = words.index("bash")
    assert words[start + 1] == "docker/slurm/task.sh"
    assert words[start + 3 : start + 6] == ["/some/venv/bin/python", "-m", "recipes.pretrain"]
    # Overrides arrive whole, whatever is in them.
    assert words[start + 6 :] == ["experiment=lumen_128m", "data.train={a: 1}", "name=lumen_128m"]


def test_container() -> None:
    words = srun_words("name=a", CONTAINER_IMAGE="registry/x:1", CONTAINER_MOUNTS="/data:/data:ro")
    assert "--container-image=registry/x:1" in words
    assert f"--container-mounts={ROOT}:{ROOT},/data:/data:ro" in words
    assert f"--container-workdir={ROOT}" in words
    assert words[-4:] == ["python", "-m", "recipes.pretrain", "name=a"]


def test_environment_of_the_tasks() -> None:
    text = dry_run("name=a", SLURM_JOB_ID="123", SLURM_RESTART_COUNT="2").stdout
    assert "export CUDA_DEVICE_MAX_CONNECTIONS=1" in text
    assert "export TORCH_NCCL_ASYNC_ERROR_HANDLING=1" in text
    assert "export MASTER_PORT=20125" in text
    assert "exit_codes.123.2" in text


@pytest.mark.parametrize(
    ("overrides", "run_dir"),
    [
        (["experiment=x/deep"], "outputs/deep"),
        (["experiment=x", "name=mine"], "outputs/mine"),
        (["name=mine", "output_dir=/scratch/runs"], "/scratch/runs/mine"),
    ],
)
def test_run_directory(overrides: list[str], run_dir: str) -> None:
    assert f"run directory: {run_dir}\n" in dry_run(*overrides).stdout


def test_user_errors(tmp_path: Path) -> None:
    unnamed = dry_run("trainer.max_steps=3")
    assert unnamed.returncode == 2 and unnamed.stderr.startswith("error: give experiment=")
    elsewhere = dry_run("name=a", PROJECT_DIR=str(tmp_path))
    assert elsewhere.returncode == 2 and "is not the project" in elsewhere.stderr
    no_job = dry_run("name=a", DRY_RUN="0")
    assert no_job.returncode == 2 and "this is a job script" in no_job.stderr


def run_task(tmp_path: Path, code: str, **env: str) -> subprocess.Popen[str]:
    slurm = {
        "SLURM_PROCID": "5",
        "SLURM_NTASKS": "8",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    }
    command = ["bash", str(SCRIPTS[1]), str(tmp_path), sys.executable, "-uc", code]
    return subprocess.Popen(command, env=CLEAN | slurm | env, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("code", "for_srun"), [(0, 0), (1, 1), (2, 2), (3, 0), (4, 4)])
def test_task_notes_the_exit_code(tmp_path: Path, code: int, for_srun: int) -> None:
    assert run_task(tmp_path, f"raise SystemExit({code})").wait() == for_srun
    assert (tmp_path / "5").read_text(encoding="utf-8") == f"{code}\n"


def test_task_sets_the_rank_variables(tmp_path: Path) -> None:
    names = "'RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'"
    output, _ = run_task(tmp_path, f"import os; print(*(os.environ[n] for n in ({names})))").communicate()
    assert output.split() == ["5", "8", "1", "4"]


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_task_passes_signals_on_and_waits(tmp_path: Path, name: str) -> None:
    code = f"""
import signal, sys, time
def handler(number, frame):
    time.sleep(0.5)
    print("saved")
    sys.exit(3)
signal.signal(signal.{name}, handler)
print("ready")
time.sleep(60)
"""
    task = run_task(tmp_path, code)
    assert task.stdout is not None and task.stdout.readline() == "ready\n"
    task.send_signal(signal.Signals[name])
    assert task.stdout.read() == "saved\n"
    assert task.wait() == 0
    assert (tmp_path / "5").read_text(encoding="utf-8") == "3\n"


def test_task_killed_before_it_could_handle_the_signal(tmp_path: Path) -> None:
    task = run_task(tmp_path, "import time; print('ready'); time.sleep(60)")
    assert task.stdout is not None and task.stdout.readline() == "ready\n"
    task.send_signal(signal.SIGUSR1)
    assert task.wait() == 0
    assert (tmp_path / "5").read_text(encoding="utf-8") == "3\n"
