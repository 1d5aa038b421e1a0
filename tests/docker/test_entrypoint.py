"""The image's entry point and health check, without a container."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes.config.hydra_app import compose
from tests.support.paths import ROOT

ENTRYPOINT = ROOT / "docker/entrypoint.sh"
HEALTH = ROOT / "docker/server_health.py"
CACHES = (
    "XDG_CACHE_HOME",
    "HF_HOME",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "CUDA_CACHE_PATH",
    "MPLCONFIGDIR",
)


def run(*words: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """The entry point, with this environment's Python as the image's."""
    clean = {k: v for k, v in os.environ.items() if k not in (*CACHES, "TMPDIR", "PYTHON")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    clean |= {"PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [ENTRYPOINT, *words],
        cwd=cwd,
        env=clean | env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def environment_of_a_job(*words: str, cwd: Path, **env: str) -> dict[str, str]:
    done = run("bash", "-c", "env -0", *words, cwd=cwd, **env)
    assert done.returncode == 0, done.stderr
    return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)


def test_lint() -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shellcheck = shutil.which("shellcheck", path=path)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, ENTRYPOINT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_without_a_job_it_says_what_there_is() -> None:
    done = run()
    assert done.returncode == 0 and len(done.stdout.splitlines()) <= 24
    for job in ("pretrain", "nemo_inference", "evaluate", "convert", "serve", "shell"):
        assert re.search(rf"^  {job}\b", done.stdout, re.MULTILINE), job
    tools = done.stdout.partition("All tools are jobs too:")[2].split()
    assert sorted(tools) == sorted(
        path.stem for path in (ROOT / "tools").glob("*.py") if path.stem != "__init__"
    )


@pytest.mark.parametrize(
    "word", ["pretrian", "experiment=quickstart", "__init__", "../tools/convert", "/opt"]
)
def test_an_unknown_job(word: str) -> None:
    done = run(word)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {word}: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("job", "says"),
    [
        ("pretrain", "python -m recipes.pretrain"),
        ("nemo_inference", "nemo_inference.sh"),
        ("quickstart", "--output-dir"),
        ("convert", "usage: python -m tools.convert"),
    ],
)
def test_every_kind_of_job(job: str, says: str, tmp_path: Path) -> None:
    done = run(job, "--help", cwd=tmp_path)
    assert done.returncode == 0 and says in done.stdout, done.stderr


def test_exit_codes_are_those_of_the_job(tmp_path: Path) -> None:
    done = run("nemo_inference", "no.nemo", "India is", cwd=tmp_path)
    assert done.returncode == 2 and "no such file" in done.stderr
    assert run("bash", "-c", "exit 3", cwd=tmp_path).returncode == 3


def test_what_lies_in_the_present_directory_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/__init__.py").write_text("raise SystemExit(7)", encoding="utf-8")
    assert run("convert", "--help", cwd=tmp_path).returncode == 0


def test_caches_are_under_the_home_directory(tmp_path: Path) -> None:
    env = environment_of_a_job(cwd=tmp_path, HOME=str(tmp_path))
    for name in CACHES:
        assert env[name].startswith(str(tmp_path / ".cache")), name
    assert env["HOME"] == str(tmp_path) and list((tmp_path / ".cache").iterdir()) == []


def test_without_a_home_directory_they_are_temporary(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    env = environment_of_a_job(cwd=tmp_path, HOME=str(tmp_path / "file"), TMPDIR=str(tmp_path))
    cache = str(tmp_path / f"cache-{os.getuid()}")
    assert all(env[name].startswith(cache) for name in CACHES)


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    given = {"XDG_CACHE_HOME": str(tmp_path / "x"), "HF_HOME": "/models"}
    env = environment_of_a_job(cwd=tmp_path, **given)
    assert env["HF_HOME"] == "/models" and env["TRITON_CACHE_DIR"] == str(tmp_path / "x/triton")


def test_without_a_place_for_caches_it_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = str(tmp_path / "file/cache")
    done = run("pretrain", "--help", XDG_CACHE_HOME=place)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{place} cannot be written" in done.stderr and "XDG_CACHE_HOME" in done.stderr
    shell = run("shell", "-c", "echo here", XDG_CACHE_HOME=place)
    assert shell.stdout == "here\n" and "cannot be written" in shell.stderr


def test_a_server_needs_a_model() -> None:
    done = run("serve")
    assert done.returncode == 2 and done.stderr.startswith("error: serve: which model?")


@pytest.fixture
def answering() -> Iterator[tuple[int, list[int]]]:
    """A server on some port, and the status that it answers next."""
    status = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status[0] if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, status
        server.shutdown()
        thread.join()


def health(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    cmdline = tmp_path / "cmdline"
    cmdline.write_text("\0".join([*words, ""]), encoding="utf-8")
    return subprocess.run([sys.executable, "-I", HEALTH, cmdline], capture_output=True, text=True)


@pytest.mark.parametrize(
    "words",
    [
        ("python", "-P", "-c", "import sys", "model.nemo", "server=true"),
        ("/sbin/docker-init", "--", "/opt/param-recipes/docker/entrypoint.sh", "serve", "model.nemo"),
        ("python", "-m", "recipes.generate", "server=True", "serving.host=0.0.0.0"),
    ],
)
def test_health_of_a_server(words: tuple[str, ...], tmp_path: Path, answering: tuple[int, list[int]]) -> None:
    port, status = answering
    words = (*words, f"port={port}")
    assert health(tmp_path, *words).returncode == 0
    status[0] = 503
    assert health(tmp_path, *words).returncode == 1


def test_health_of_a_server_that_does_not_answer(tmp_path: Path, answering: tuple[int, list[int]]) -> None:
    done = health(tmp_path, "python", "server=true", "serving.host=127.0.0.2", f"port={answering[0]}")
    assert done.returncode == 1 and "127.0.0.2" in done.stdout


def test_health_reads_settings_that_a_server_has() -> None:
    keys = re.findall(r"settings\.get\([\"']([\w.]+)", HEALTH.read_text(encoding="utf-8"))
    assert len(keys) == 2
    assert compose("generate", ["gpt_model_file=x", *(f"{key}=1" for key in keys)]).port == 1


def test_health_of_other_jobs(tmp_path: Path) -> None:
    assert health(tmp_path, "python", "-m", "recipes.pretrain", "name=serve").returncode == 0
