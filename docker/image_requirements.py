"""What the image build installs: the project's dependencies and those of its jobs, except those that the base
image provides.

An NGC image has its own builds of torch, Transformer Engine and related packages, which are on no package
index. They are pinned at their versions; all other versions come from constraints.txt. On a plain Python
image, all versions do. Standard library only: this runs before anything is installed.

    python3 docker/image_requirements.py write BUILD_DIR    # requirements.txt, constraints.txt, image.txt
    python3 docker/image_requirements.py check BUILD_DIR    # fails if a package of the image was replaced
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]

#: Packages built against the image's CUDA and torch, by normalised name.
OWNED = re.compile(
    r"torch|torch-tensorrt|torchao|torchaudio|torchdata|torchvision|pytorch-triton|triton|apex"
    r"|transformer-engine.*|flash-attn.*|nvidia-.*|cuda-.*"
)


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def image_pins() -> dict[str, str]:
    """The owned packages that this Python can import: {name: version}."""
    pins: dict[str, str] = {}
    for distribution in distributions():
        name = normalised(distribution.metadata["Name"] or "")
        if OWNED.fullmatch(name):
            # In sys.path order: a copy in the virtual environment hides the image's.
            pins.setdefault(name, distribution.version)
    return dict(sorted(pins.items()))


def merged_constraints(lock: str, pins: dict[str, str]) -> str:
    """constraints.txt with the packages in `pins` at the versions given there."""
    lines = []
    for line in lock.splitlines():
        name = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line)
        if name is None or normalised(name.group()) not in pins:
            lines.append(line)
    return "\n".join([*lines, *(f"{name}=={version}" for name, version in pins.items()), ""])


def write(out: Path) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = image_pins()
    lock = (PROJECT / "constraints.txt").read_text(encoding="utf-8")
    out.mkdir(parents=True, exist_ok=True)
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *extras["data"], *extras["loggers"], *extras["server"]]
    (out / "requirements.txt").write_text("\n".join([*requirements, ""]), encoding="utf-8")
    (out / "constraints.txt").write_text(merged_constraints(lock, pins), encoding="utf-8")
    (out / "image.txt").write_text("".join(f"{n}=={v}\n" for n, v in pins.items()), encoding="utf-8")
    print("of the base image:", " ".join(f"{n}=={v}" for n, v in pins.items()) or "nothing")


def check(out: Path) -> int:
    """Compares the packages that this Python imports now with those the image had."""
    now = image_pins()
    before = dict(line.split("==", 1) for line in (out / "image.txt").read_text(encoding="utf-8").split())
    replaced = [f"{n}: {v} became {now.get(n, 'missing')}" for n, v in before.items() if now.get(n) != v]
    for line in replaced:
        print(f"error: {line}", file=sys.stderr)
    return 1 if replaced else 0


def main(arguments: list[str]) -> int:
    match arguments:
        case ["write", out]:
            write(Path(out))
            return 0
        case ["check", out]:
            return check(Path(out))
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
