"""The CPU variant of the image, built from a bare Debian or Ubuntu with buildah, and run with podman.

No Docker and no registry of images are needed: the base is made of packages of the distribution. Packages
come from where this machine's apt and pip take them.
"""

from __future__ import annotations

import ast
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

VARIABLE = "PARAM_RECIPES_TEST_IMAGE"
PROGRAMS = ("buildah", "podman", "crun", "mmdebstrap", "unshare")
CODENAMES = ("bookworm", "noble")
"""Releases whose Python is 3.11 or 3.12."""
BASE, IMAGE = "localhost/param-recipes-base", "localhost/param-recipes:cpu"
CERTIFICATES = Path("/etc/ssl/certs")
# podman refuses machines that have both versions of cgroups; nothing here needs any.
PODMAN = """umount /sys/fs/cgroup/unified 2>/dev/null; exec podman "$@" """
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")


def missing() -> str | None:
    """Why the image cannot be built here."""
    if not os.environ.get(VARIABLE):
        return f"takes long and 9 GB: {VARIABLE}=DIR, a directory that is kept for the next time"
    programs = [name for name in PROGRAMS if shutil.which(name) is None]
    if programs:
        return f"not installed: {', '.join(programs)}"
    if os.geteuid() != 0:
        return "needs root"
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME")
    return None if codename in CODENAMES else f"{codename} is none of {', '.join(CODENAMES)}"


@dataclass(frozen=True)
class Image:
    """A built image and where it is stored."""

    directory: Path

    def podman(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """One command of podman."""
        words = ["unshare", "--mount", "bash", "-c", PODMAN, "podman", *map(str, arguments)]
        return subprocess.run(words, env=_environment(self.directory), capture_output=True, text=True)

    def run(self, *arguments: object, **options: str | None) -> subprocess.CompletedProcess[str]:
        """The job of the arguments, without network and with a read-only root file system.

        Args:
            options: of `podman run`; None leaves a default out.
        """
        # For health checks podman asks systemd, and complains where there is none.
        flags = self.flags(no_healthcheck="true", **options)
        return self.podman("run", "--rm", *flags, IMAGE, *arguments)

    def flags(self, **options: str | None) -> list[str]:
        """Flags of `podman run`."""
        chosen = {"network": "none", "read_only": "true", "cgroups": "disabled", **options}
        given = [f"--{key.replace('_', '-')}={value}" for key, value in chosen.items() if value is not None]
        return [*LIMITS, *given]


def build(directory: Path) -> Image:
    """Builds the base and the image; what was built before is taken again."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{directory}/storage"\nrunroot = "{directory}/run"\n',
        encoding="utf-8",
    )
    image = Image(directory)
    if image.podman("image", "exists", BASE).returncode:
        _build_base(directory)
    pip, mounted = _pip_settings()
    (directory / "pip.conf").write_text(pip, encoding="utf-8")
    volumes = [f"{path}:{path}:ro" for path in sorted({CERTIFICATES, *mounted})]
    volumes.append(f"{directory}/pip.conf:/etc/pip.conf:ro")
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    _buildah(
        directory,
        *("--layers", "--network", "host"),
        *(word for volume in volumes for word in ("--volume", volume)),
        *("--build-arg", f"BASE_IMAGE={BASE}", "--build-arg", f"REVISION={revision.strip()}"),
        *("--tag", IMAGE, str(ROOT)),
    )
    return image


def _build_base(directory: Path) -> None:
    context = directory / "base"
    context.mkdir(exist_ok=True)
    lists = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*.sources")]
    packages = "--include=ca-certificates,python3-minimal,python3-pip,python3-venv"
    codename = platform.freedesktop_os_release()["VERSION_CODENAME"]
    archive = context / "root.tar"
    sources = [str(path) for path in lists if path.exists() and path.stat().st_size]
    subprocess.run(["mmdebstrap", "--variant=minbase", packages, codename, archive, *sources], check=True)
    (context / "Dockerfile").write_text("FROM scratch\nADD root.tar /\n", encoding="utf-8")
    _buildah(directory, "--tag", BASE, str(context))
    archive.unlink()


def _buildah(directory: Path, *arguments: str) -> None:
    words = ["buildah", "bud", "--isolation", "chroot", "--format", "docker", *arguments]
    done = subprocess.run(words, env=_environment(directory), capture_output=True, text=True)
    (directory / "build.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def _environment(directory: Path) -> dict[str, str]:
    return os.environ | {"CONTAINERS_STORAGE_CONF": str(directory / "storage.conf")}


def _pip_settings() -> tuple[str, set[Path]]:
    """This machine's pip.conf, whatever files and variables it comes from, and the paths that it names."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings: dict[str, str] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        settings[key.rpartition(".")[2]] = str(ast.literal_eval(value))
    settings.pop("constraint", None)  # The image's own are decisive.
    paths = {path for value in settings.values() for path in _paths_in(value)}
    lines = ["[global]", *(f"{key} = {value}" for key, value in settings.items()), ""]
    return "\n".join(lines), paths


def _paths_in(value: str) -> Iterator[Path]:
    for word in value.split():
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            # An index refers to files beside it.
            yield path.parent if word.startswith("file://") else path
