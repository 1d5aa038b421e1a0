"""The CPU variant of the image, built and run for real: as any user, offline, with a read-only root."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.support.image import IMAGE, VARIABLE, Image, build, missing

STEPS = 40
USER = 10001
"""The image's own."""
PROMPT = "Suresh lives in"
MODEL = "outputs/quickstart/model.nemo"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]


@pytest.fixture(scope="module")
def image() -> Image:
    return build(Path(os.environ[VARIABLE]))


@pytest.fixture(scope="module")
def workspace(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the quick start has run, as the image's user."""
    directory = tmp_path_factory.mktemp("workspace")
    for parent in (directory, *directory.parents[:2]):  # pytest's are closed to other users.
        parent.chmod(0o755)
    os.chown(directory, USER, USER)
    settings = [f"trainer.max_steps={STEPS}", "trainer.log_every_n_steps=2"]
    done = image.run("quickstart", *settings, volume=f"{directory}:/workspace")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (directory / "said").write_text(done.stdout, encoding="utf-8")
    return directory


def test_it_says_what_it_can_run(image: Image) -> None:
    done = image.run()
    assert done.returncode == 0 and "pretrain SETTING=VALUE..." in done.stdout
    unknown = image.run("pretrian")
    assert unknown.returncode == 2 and unknown.stderr.count("\n") == 1


def test_labels_and_health_check(image: Image) -> None:
    (told,) = json.loads(image.podman("image", "inspect", IMAGE).stdout)
    assert told["Labels"]["org.opencontainers.image.title"] == "Param Recipes"
    assert told["Labels"]["org.opencontainers.image.base.name"].startswith("localhost/")
    assert told["User"] == str(USER) and told["Healthcheck"]["Test"][0] == "CMD"


def test_quick_start(workspace: Path) -> None:
    run = workspace / "outputs/quickstart"
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert summary["loss"]["last"] < summary["loss"]["first"]
    assert summary["resumed_at_step"] is not None
    assert (run / "model.nemo").stat().st_uid == USER and (run / "report.html").exists()


def test_nemo_inference_as_a_user_without_a_name(image: Image, workspace: Path) -> None:
    volume = f"{workspace}:/workspace:ro"
    settings = ["inference.greedy=true", "inference.tokens_to_generate=8"]
    done = image.run("nemo_inference", MODEL, PROMPT, *settings, volume=volume, user="4321:4321")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(PROMPT) and len(done.stdout.strip()) > len(PROMPT)


def test_convert(image: Image, workspace: Path) -> None:
    done = image.run("convert", MODEL, "hf", "--to", "hf", volume=f"{workspace}:/workspace")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((workspace / "hf/config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize("mount", [{}, {"tmpfs": "/tmp:rw,noexec"}], ids=["read-only", "noexec"])
def test_without_a_place_for_caches(image: Image, mount: dict[str, str]) -> None:
    done = image.run("pretrain", "--help", read_only_tmpfs="false", **mount)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert ("is mounted noexec" if mount else "/tmp/cache-10001 cannot be written") in done.stderr


def test_server_and_its_health(image: Image, workspace: Path) -> None:
    name = f"param-recipes-{os.getpid()}"
    flags = image.flags(name=name, volume=f"{workspace}:/workspace:ro")
    started = image.podman("run", "--detach", *flags, IMAGE, "serve", MODEL, "port=6000")
    assert started.returncode == 0, started.stderr
    try:
        assert image.podman("healthcheck", "run", name).returncode == 1, "it is still loading"
        while image.podman("healthcheck", "run", name).returncode:
            running = image.podman("container", "inspect", "--format", "{{.State.Running}}", name)
            assert running.stdout.strip() == "true", image.podman("logs", name).stderr[-3000:]
            time.sleep(1)
    finally:
        stopped = image.podman("stop", "--time", "600", name)
        code = image.podman("wait", name).stdout.strip()
        image.podman("rm", "--force", name)
    assert stopped.returncode == 0 and code == "0"
