"""provenance.json: what made a release, and from what."""

from __future__ import annotations

import platform
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import yaml

from recipes.code_version import code_version, versions
from recipes.config.timeline import timeline_of
from recipes.files import sha256_file
from recipes.release.data_facts import SourceFacts
from recipes.release.finished_run import FinishedRun
from recipes.release.private import publishable
from recipes.run_directory import RunDirectory

PACKAGES = (
    "torch",
    "megatron-core",
    "nemo_toolkit",
    "lightning",
    "transformers",
    "tokenizers",
    "sentencepiece",
)


def provenance(run: FinishedRun, sources: list[SourceFacts], verified: dict[str, Any]) -> dict[str, Any]:
    """The content of provenance.json; every path in it is reduced to a name.

    Args:
        verified: what was compared, and with what result.
    """
    return {
        "format": 1,
        "name": run.name,
        "released": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": run.step,
        "steps": run.steps,
        "tokens": timeline_of(run.config).tokens(run.step),
        # Of the last save; checkpoints of earlier versions do not say it.
        "trained_with": run.manifest.get("code"),
        "released_with": code_version() | {"python": platform.python_version(), **versions(PACKAGES)},
        "configuration": published_config(run.directory),
        "configuration_sha256": sha256_file(run.directory.config_file),
        "checkpoint": {
            "name": run.checkpoint.name,
            "files": run.manifest["files"],
            "configuration_sha256": run.manifest.get("config_sha256"),
        },
        "metrics_sha256": sha256_file(run.directory.metrics_file),
        "data": [asdict(source) for source in sources],
        "verified": verified,
    }


def published_config(directory: RunDirectory) -> dict[str, Any]:
    """config.yaml without the machine's paths and without secrets."""
    config: dict[str, Any] = publishable(yaml.safe_load(directory.config_file.read_text(encoding="utf-8")))
    return config
