"""The Slurm job script: syntax, lint, and what it would start. No Slurm is needed."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

VENV = str(Path(sys.executable).parents[1])
SCRIPTS = [ROOT / "docker/slurm/pretrain.sbatch", ROOT / "docker/slurm/task.sh"]
QUICK = ["experiment=quickstart"]
OURS = ("SLURM", "CONTAINER", "MAX_", "VENV", "DRY_RUN", "PROJECT_DIR")
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}


def tool(name: str) -> str:
    path = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def dry_run(*overrides: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPTS[0]), *overrides],
        env=CLEAN | {"DRY_RUN": "1", "VENV": VENV} | env,
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
    train = "data.train={a: {path: 'x, $y'}}"
    words = srun_words("experiment=lumen_128m", train)
    assert words[0] == "srun"
    assert {"--kill-on-bad-exit=1", "--wait=60", "--open-mode=append"} <= set(words)
    assert "--output=outputs/lumen_128m/logs/slurm/%j.0.%N.log" in words
    assert not any(word.startswith("--container") for word in words)
    start = words.index("bash")
    assert words[start + 1] == "docker/slurm/task.sh"
    assert words[start + 3 : start + 6] == [f"{VENV}/bin/python", "-m", "recipes.pretrain"]
    # Overrides arrive whole, whatever is in them.
    assert words[start + 6 :] == ["experiment=lumen_128m", train, "name=lumen_128m"]


def test_container() -> None:
    words = srun_words("name=a", CONTAINER_IMAGE="registry/x:1", CONTAINER_MOUNTS="/data:/data:ro")
    assert "--container-image=registry/x:1" in words
    assert f"--container-mounts={ROOT}:{ROOT},/data:/data:ro" in words
    assert f"--container-workdir={ROOT}" in words
    assert words[-4:] == ["python", "-m", "recipes.pretrain", "name=a"]


def test_environment_of_the_tasks() -> None:
    text = dry_run("experiment=quickstart", SLURM_JOB_ID="123", SLURM_RESTART_COUNT="2").stdout
    assert "export CUDA_DEVICE_MAX_CONNECTIONS=1" in text
    assert "export TORCH_NCCL_ASYNC_ERROR_HANDLING=1" in text
    assert "export MASTER_PORT=20125" in text
    assert "exit_codes.123.2" in text


@pytest.mark.parametrize(
    ("overrides", "run_dir"),
    [
        (QUICK, "outputs/quickstart"),
        ([*QUICK, "name=mine"], "outputs/mine"),
        ([*QUICK, "name=mine", "output_dir=/scratch/runs"], "/scratch/runs/mine"),
        ([*QUICK, "++name=mine", "++output_dir=/scratch/runs/"], "/scratch/runs/mine"),
        ([*QUICK, "name=s${seed}", "output_dir=${oc.env:SCRATCH}/runs"], "/some where/runs/s1234"),
    ],
)
def test_run_directory(overrides: list[str], run_dir: str) -> None:
    done = dry_run(*overrides, SCRATCH="/some where")
    assert f"run directory: {run_dir}\n" in done.stdout, done.stderr
    assert f"--output={run_dir}/logs/slurm/%j.0.%N.log" in shlex.split(done.stdout.splitlines()[-1])


def test_run_directory_of_an_experiment(tmp_path: Path) -> None:
    experiment = tmp_path / "experiment" / "deep" / "far.yaml"
    experiment.parent.mkdir(parents=True)
    text = (ROOT / "conf/experiment/quickstart.yaml").read_text(encoding="utf-8")
    experiment.write_text(text + "output_dir: /scratch/${name}s\n", encoding="utf-8")
    done = dry_run(f"--config-dir={tmp_path}", "experiment=deep/far")
    assert "run directory: /scratch/fars/far\n" in done.stdout, done.stderr


def test_dry_run_without_the_python_of_the_job() -> None:
    for env in ({"VENV": "/no/venv"}, {"CONTAINER_IMAGE": "registry/x:1"}):
        done = dry_run("name=a", "output_dir=${oc.env:SCRATCH}", **env)
        assert done.returncode == 0 and "--output=RUN_DIRECTORY/logs/slurm/" in done.stdout
        assert "python -m recipes.config.run_directory name=a output_dir=" in done.stdout


SRUN = """#!/bin/bash
echo "$*" >>srun_calls
until [ "$1" = python ] || [ "$1" = bash ]; do shift; done
if [ "$1" = python ]; then
  [ ! -e no_container ] || exit 1
  shift
  exec "$REAL_PYTHON" "$@"
fi
step=$SCRATCH/runs/a/checkpoints/step_0000$((10 + SLURM_RESTART_COUNT))00
mkdir -p "$step" && touch "$step/manifest.json"
echo 3 >"$3/0"
"""


@pytest.mark.parametrize("image", ["", "registry/x:1"])
def test_a_run_that_gets_on_is_not_given_up(tmp_path: Path, image: str) -> None:
    """Every start makes a checkpoint and is stopped by a signal, as at a time limit."""
    project, programs = tmp_path / "project", tmp_path / "bin"
    (project / "docker").mkdir(parents=True)
    programs.mkdir()
    (project / "docker" / "slurm").symlink_to(SCRIPTS[0].parent)
    for name in ("recipes", "conf"):
        (project / name).symlink_to(ROOT / name)
    scontrol = '#!/bin/bash\necho "$*" >>scontrol_calls\n[ "$1" != requeue ]\n'
    for name, text in (("srun", SRUN), ("scontrol", scontrol)):
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(0o755)
    env = CLEAN | {"SLURM_JOB_ID": "7", "VENV": VENV, "REAL_PYTHON": sys.executable, "CONTAINER_IMAGE": image}
    # Behind the interpreter's own directory, which the script puts first, there must be our programs.
    env |= {"SCRATCH": f"{tmp_path}/scratch", "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def start(restart: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(SCRIPTS[0]), *QUICK, "name=a", "++output_dir=${oc.env:SCRATCH}/runs"],
            env=env | {"SLURM_RESTART_COUNT": str(restart), "MAX_FAILURES": "1"},
            cwd=project,
            capture_output=True,
            text=True,
        )

    for restart in range(3):
        done = start(restart)
        assert f"newest step 1{restart}00" in done.stdout, done.stdout + done.stderr
        assert done.returncode == 3  # here Slurm does not take the job back
    assert (project / "scontrol_calls").read_text().splitlines().count("requeue 7") == 3
    assert not (project / "outputs").exists() and not list(project.glob("*oc.env*"))
    if image:
        (project / "no_container").touch()  # a node on which the container does not start
        done = start(3)
        assert done.returncode == 1 and "cannot tell the run directory" in done.stdout
        assert (project / "scontrol_calls").read_text().splitlines().count("requeue 7") == 4


def test_user_errors(tmp_path: Path) -> None:
    unnamed = dry_run("trainer.max_steps=3")
    assert unnamed.returncode == 2 and unnamed.stderr.startswith("error: give experiment=")
    unknown = dry_run("experiment=x/deep")
    assert unknown.returncode == 2 and unknown.stdout == ""
    (line,) = unknown.stderr.splitlines()
    assert line.startswith("error: ") and "experiment=x/deep" in line
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
