"""The Slurm job script: syntax, lint, and what it would start. No Slurm is needed."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import ROOT

VENV = str(Path(sys.executable).parents[1])
SCRIPTS = [ROOT / f"docker/slurm/{name}" for name in ("pretrain.sbatch", "task.sh", "container.sh")]
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
    line = [tool("shellcheck"), "--shell=bash", script]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
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
    assert "--container-image=registry/x:1" in words  # On Docker Hub.
    assert f"--container-mounts={ROOT}:{ROOT},/data:/data:ro" in words
    assert f"--container-workdir={ROOT}" in words
    assert words[-4:] == ["python", "-m", "recipes.pretrain", "name=a"]


def test_apptainer() -> None:
    image = {"CONTAINER_RUNTIME": "apptainer", "CONTAINER_IMAGE": "/shared/x.sif"}
    words = srun_words("name=a", CONTAINER_MOUNTS="/data:/data:ro", **image)
    assert not any(word.startswith("--container") for word in words)
    start = words.index("apptainer")
    assert words[start : start + 5] == ["apptainer", "exec", "--nv", "--bind", f"{ROOT},/data:/data:ro"]
    assert words[start + 5 : start + 10] == [
        "--pwd",
        str(ROOT),
        "/shared/x.sif",
        "bash",
        "docker/slurm/task.sh",
    ]
    assert words[-4:] == ["python", "-m", "recipes.pretrain", "name=a"]


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({"CONTAINER_RUNTIME": "apptainer"}, "needs CONTAINER_IMAGE"),
        ({"CONTAINER_RUNTIME": "podman", "CONTAINER_IMAGE": "x"}, "choose pyxis or apptainer"),
        (
            {"CONTAINER_RUNTIME": "apptainer", "CONTAINER_IMAGE": "x", "CONTAINER_FILE": "/x.sqsh"},
            "only pyxis reads it",
        ),
    ],
)
def test_refused_containers(env: dict[str, str], why: str) -> None:
    done = dry_run("name=a", **env)
    assert done.returncode == 2 and why in done.stderr


def function(call: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """A call of one of container.sh's functions."""
    line = ["bash", "-uc", f". {shlex.quote(str(SCRIPTS[2]))}; {call}"]
    return subprocess.run(line, cwd=cwd, env=CLEAN | env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("image", "for_pyxis"),
    [
        ("registry.example.org/param-recipes:1", "registry.example.org#param-recipes:1"),
        ("registry.example.org#param-recipes:1", "registry.example.org#param-recipes:1"),
        ("registry.example.org:5000/team/image:1", "registry.example.org:5000#team/image:1"),
        ("registry:5000/image", "registry:5000#image"),
        ("localhost/image:1", "localhost#image:1"),
        ("me@registry.example.org/image:1", "me@registry.example.org#image:1"),
        ("nvcr.io/nvidia/pytorch@sha256:0a", "nvcr.io#nvidia/pytorch@sha256:0a"),
        ("docker://nvcr.io/nvidia/pytorch:25.11-py3", "docker://nvcr.io#nvidia/pytorch:25.11-py3"),
        # Docker Hub.
        ("registry/image:1", "registry/image:1"),
        ("python:3.12", "python:3.12"),
        # An image that another engine of the node holds.
        ("dockerd://image.name/x:1", "dockerd://image.name/x:1"),
        # Files.
        ("/shared/image.sqsh", "/shared/image.sqsh"),
        ("/shared/unpacked.dir/image", "/shared/unpacked.dir/image"),
        ("images.d/image.sqsh", f"{ROOT}/images.d/image.sqsh"),
    ],
)
def test_image_for_pyxis(image: str, for_pyxis: str) -> None:
    done = function(f"pyxis_image {shlex.quote(image)}")
    assert (done.stdout, done.stderr) == (f"{for_pyxis}\n", "")
    if not image.endswith(".sqsh") and not image.startswith("/"):
        assert f"--container-image={for_pyxis}" in srun_words("name=a", CONTAINER_IMAGE=image)


@pytest.mark.parametrize(
    ("cpus", "tasks", "each"),
    [("96(x64)", "8", 12), ("96(x63),48", "8", 6), ("8,9", "4(x2)", 2), ("2", "8", 1)],
)
def test_processors_of_a_task(cpus: str, tasks: str, each: int) -> None:
    assert function(f"cpus_per_task '{cpus}' '{tasks}'").stdout == f"{each}\n"
    job = {"SLURM_JOB_CPUS_PER_NODE": cpus, "SLURM_NTASKS_PER_NODE": tasks}
    assert f"--cpus-per-task={each}" in srun_words("name=a", CONTAINER_IMAGE="x", **job)
    assert "--cpus-per-task=3" in srun_words("name=a", CONTAINER_IMAGE="x", SLURM_CPUS_PER_TASK="3", **job)
    assert not any(word.startswith("--cpus") for word in srun_words("name=a", CONTAINER_IMAGE="x"))


ENROOT = """#!/bin/bash
echo "$*" >>"$CALLS"
[ "$1 $2" = "import --output" ] || exit 1
sleep 0.5
[ "$4" != docker://broken.example.org#x ] || { echo half >"$3"; exit 1; }
echo "$4" >"$3"
"""


def test_an_image_is_imported_once(tmp_path: Path) -> None:
    """By two jobs at the same time; a failed import leaves no file, and the next tries again."""
    program = tmp_path / "bin" / "enroot"
    program.parent.mkdir()
    program.write_text(ENROOT, encoding="utf-8")
    program.chmod(0o755)
    calls, file = tmp_path / "calls", tmp_path / "images" / "a.sqsh"
    env = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "CALLS": str(calls)}
    assert function(f"import_image broken.example.org/x {file}", **env).returncode != 0
    assert not file.exists()
    line = ["bash", "-uc", f". {SCRIPTS[2]}; import_image registry.example.org/x:1 {file}"]
    jobs = [subprocess.Popen(line, env=CLEAN | env) for _ in range(2)]
    assert [job.wait() for job in jobs] == [0, 0]
    assert file.read_text() == "docker://registry.example.org#x:1\n"
    assert calls.read_text().count("registry.example.org") == 1
    assert function(f"import_image registry.example.org/x:1 {file}", **env).returncode == 0
    assert len(calls.read_text().splitlines()) == 2
    words = srun_words("name=a", CONTAINER_IMAGE="registry.example.org/x:1", CONTAINER_FILE=str(file))
    assert f"--container-image={file}" in words


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
[ -n "${NOT_MET:-}" ] || { mkdir -p "$step" && touch "$step/manifest.json"; }
echo "${NOT_MET:-3}" >"$3/0"
exit "${NOT_MET:-0}"
"""


Start = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project's directory on a cluster of stand-ins."""
    project = tmp_path / "project"
    (project / "docker").mkdir(parents=True)
    (project / "docker" / "slurm").symlink_to(SCRIPTS[0].parent)
    for name in ("recipes", "conf"):
        (project / name).symlink_to(ROOT / name)
    return project


@pytest.fixture
def start(project: Path, tmp_path: Path) -> Start:
    """Starts the job script as Slurm does: after ``restart`` requeues, with more of the environment."""
    programs = tmp_path / "bin"
    programs.mkdir()
    scontrol = (
        '#!/bin/bash\necho "$*" >>scontrol_calls\n[ "$2" != hostnames ] || echo "$3"\n[ "$1" != requeue ]\n'
    )
    for name, text in (("srun", SRUN), ("scontrol", scontrol)):
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(0o755)
    common = CLEAN | {"SLURM_JOB_ID": "7", "VENV": VENV, "REAL_PYTHON": sys.executable}
    # Behind the interpreter's own directory, which the script puts first, there must be our programs.
    common |= {"SCRATCH": f"{tmp_path}/scratch", "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def start(restart: int, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(SCRIPTS[0]), *QUICK, "name=a", "++output_dir=${oc.env:SCRATCH}/runs"],
            env=common | {"SLURM_RESTART_COUNT": str(restart), "MAX_FAILURES": "1"} | env,
            cwd=project,
            capture_output=True,
            text=True,
        )

    return start


def requeues(project: Path) -> int:
    return (project / "scontrol_calls").read_text().splitlines().count("requeue 7")


@pytest.mark.parametrize("image", ["", "registry/x:1"])
def test_a_run_that_gets_on_is_not_given_up(project: Path, start: Start, image: str) -> None:
    """Every start makes a checkpoint and is stopped by a signal, as at a time limit."""
    for restart in range(3):
        done = start(restart, CONTAINER_IMAGE=image)
        assert f"newest step 1{restart}00" in done.stdout, done.stdout + done.stderr
        assert done.returncode == 3  # here Slurm does not take the job back
    assert requeues(project) == 3
    assert not (project / "outputs").exists() and not list(project.glob("*oc.env*"))
    if image:
        (project / "no_container").touch()  # a node on which the container does not start
        done = start(3, CONTAINER_IMAGE=image)
        assert done.returncode == 1 and "cannot tell the run directory" in done.stdout
        assert requeues(project) == 4


def test_a_job_imports_its_image_first(project: Path, start: Start, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "enroot"
    program.write_text(ENROOT, encoding="utf-8")
    program.chmod(0o755)
    env = {"CALLS": str(tmp_path / "calls"), "CONTAINER_FILE": str(tmp_path / "a.sqsh")}
    broken = start(0, CONTAINER_IMAGE="broken.example.org/x", **env)
    assert broken.returncode == 2 and "cannot be imported" in broken.stderr
    assert start(0, CONTAINER_IMAGE="registry.example.org/x:1", **env).returncode == 3
    calls = (project / "srun_calls").read_text().splitlines()
    assert calls and all(f"--container-image={tmp_path}/a.sqsh" in call for call in calls)


def test_links_are_measured_where_the_run_will_be(project: Path, start: Start) -> None:
    job = {"SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_NUM_NODES": "1", "SLURMD_NODENAME": "localhost"}
    job |= {"CONTAINER_IMAGE": "registry/x:1", "HEALTH_PAIR_ALL_REDUCE_GB_PER_S": "300"}
    done = start(0, **job)
    assert "measuring all-reduces on 1 nodes" in done.stdout and "left out" not in done.stdout
    assert done.returncode == 3, done.stdout + done.stderr
    (measured,) = [
        line for line in (project / "srun_calls").read_text().splitlines() if "check_bandwidth" in line
    ]
    assert "--container-image=registry/x:1" in measured and measured.endswith(" --between 300")
    assert "--nodes=1 --nodelist=localhost --ntasks=1 " in measured
    # Nobody is to blame for what cannot be measured.
    done = start(0, **job | {"HEALTH_PAIR_ALL_REDUCE_GB_PER_S": "0"})
    assert done.returncode == 1 and "all-reduces are not as they should be: " in done.stdout
    assert "left out" not in done.stdout and requeues(project) == 2


def test_processes_that_did_not_meet(project: Path, start: Start) -> None:
    """A node that does not answer: the job goes back to the queue, and gives up where that does not help."""
    done = start(0, NOT_MET="5", MAX_FAILURES="2")
    assert done.returncode == 5 and "exit code 5" in done.stdout and requeues(project) == 1
    assert start(1, NOT_MET="5", MAX_FAILURES="2").returncode == 5 and requeues(project) == 2
    last = start(2, NOT_MET="5", MAX_FAILURES="2")
    assert last.returncode == 1 and "giving up: 2 starts in a row" in last.stdout and requeues(project) == 2
    assert start(0, NOT_MET="2").returncode == 2 and requeues(project) == 2


def test_user_errors(tmp_path: Path) -> None:
    unnamed = dry_run("trainer.max_steps=3")
    assert unnamed.returncode == 2 and unnamed.stderr.startswith("error: give experiment=")
    unknown = dry_run("experiment=x/deep")
    assert unknown.returncode == 2 and unknown.stdout == ""
    (line,) = unknown.stderr.splitlines()
    assert line.startswith("error: ") and "experiment=x/deep" in line
    elsewhere = dry_run("name=a", PROJECT_DIR=str(tmp_path))
    assert elsewhere.returncode == 2 and "is not the project" in elsewhere.stderr
    file = dry_run("name=a", CONTAINER_IMAGE="/a.sqsh", CONTAINER_FILE="/b.sqsh")
    assert file.returncode == 2 and "CONTAINER_IMAGE is a file already" in file.stderr
    name = dry_run("name=a", CONTAINER_IMAGE="a/x", CONTAINER_FILE="/b.img")
    assert name.returncode == 2 and "a name that ends with .sqsh" in name.stderr
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


@pytest.mark.parametrize(
    ("shown", "cancelled"),
    [
        (
            "JobState=RUNNING Reason=None Restarts=0 RunTime=00:00:31 TimeLimit=00:10:00 PreemptTime=None",
            False,
        ),
        (
            "JobState=CANCELLED Reason=None Restarts=0 RunTime=00:00:31 TimeLimit=00:10:00 PreemptTime=None",
            True,
        ),
        # While the tasks end: scancel, the time limit twice, requeued by Slurm, preempted.
        ("JobState=COMPLETING Restarts=0 RunTime=00:00:31 TimeLimit=00:10:00 PreemptTime=None", True),
        ("JobState=COMPLETING Restarts=0 RunTime=1-00:00:31 TimeLimit=UNLIMITED PreemptTime=None", True),
        ("JobState=COMPLETING Restarts=0 RunTime=00:10:08 TimeLimit=00:10:00 PreemptTime=None", False),
        ("JobState=COMPLETING Restarts=0 RunTime=2-00:00:01 TimeLimit=2-00:00:00 PreemptTime=None", False),
        ("JobState=COMPLETING Restarts=1 RunTime=00:00:31 TimeLimit=00:10:00 PreemptTime=None", False),
        (
            "JobState=COMPLETING Restarts=0 RunTime=00:00:31 TimeLimit=00:10:00 PreemptTime=2026-11-27",
            False,
        ),
        ("", False),
    ],
)
def test_a_cancelled_job_is_recognised_while_its_tasks_end(shown: str, cancelled: bool) -> None:
    script = f". docker/slurm/container.sh; scontrol() {{ echo 'JobId=7 {shown} '; }}; is_cancelled 7 0"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode == 0) is cancelled, done.stderr


SEES = """#!/bin/bash
case "$*" in *SLURMD_NODENAME*) printf '%s\\n' $SEEING; exit ;; esac
exec "${0%/*}/srun_of_tasks" "$@"
"""


@pytest.mark.parametrize(
    ("seeing", "said"),
    [
        ("n0 n1 n2", None),
        ("n0", "is not there on n1, n2; output_dir must be on a file system that all nodes share"),
        ("n0 n2", "node n1 is left out: "),
        ("", None),
    ],
)
def test_every_node_sees_the_run_directory(
    project: Path, start: Start, tmp_path: Path, seeing: str, said: str | None
) -> None:
    (tmp_path / "bin/srun").rename(tmp_path / "bin/srun_of_tasks")
    (tmp_path / "bin/srun").write_text(SEES, encoding="utf-8")
    (tmp_path / "bin/srun").chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "n0\nn1\nn2", "SLURM_JOB_NUM_NODES": "3", "SEEING": seeing}
    done = start(0, **job)
    if said is None:
        assert done.returncode == 3 and "not there" not in done.stdout + done.stderr
    else:
        assert said in done.stdout + done.stderr
        assert done.returncode == (
            2 if "output_dir" in said else 0
        )  # 0: Slurm has it again, without the node
