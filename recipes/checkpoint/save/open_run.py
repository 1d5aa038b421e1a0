"""Opener of this project's training checkpoints: one step, or a run, meaning its newest whole one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from recipes.checkpoint.formats.containers import DirectoryFiles, Files
from recipes.checkpoint.formats.torch_dist import METADATA, read_common
from recipes.checkpoint.formats.weights import distributed_weights
from recipes.checkpoint.formats.yaml_file import read_yaml
from recipes.checkpoint.save.held import hold
from recipes.checkpoint.save.manifest import MANIFEST, finished_checkpoints, verify
from recipes.checkpoint.stored.description import described_model
from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.checkpoint.stored.stored_tokenizer import StoredTokenizer, blob_of, tokenizer_on_disk
from recipes.counts import counted
from recipes.data.samples.document_start import DocumentStart, document_start_of
from recipes.data.samples.indexed import read_sidecar
from recipes.data.samples.source_files import find_prefixes
from recipes.data.tokenizer.file_names import HUGGING_FACE
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from recipes.families.tensors import AVERAGE
from recipes.run_directory import CHAT_TEMPLATE

CHECKPOINTS = "checkpoints"
RUN_CONFIG = "config.yaml"


def open_training(
    path: Path, files: Files, verify_files: bool, *, averaged: bool = False
) -> StoredModel | None:
    """A training checkpoint; None for anything else.

    With ``verify_files`` every file is compared with the manifest's SHA-256, with ``averaged`` the tensors
    are the averages of the weights.

    Raises:
        UserError: it is damaged, or has no averages.
    """
    if not path.is_dir():
        return None
    found = _step(path, verify_files)
    if found is None:
        return None
    step, held = found
    stored = DirectoryFiles(step)
    weights = distributed_weights(stored, AVERAGE if averaged else "")
    if weights is None:
        raise UserError(f"{step / METADATA}: no such file; this is not a whole checkpoint")
    if averaged and not weights.tensors:
        raise UserError(
            f"{step}: holds no average of the weights beside them: no run with trainer.ema.decay has saved it"
        )
    common = read_common(stored)
    config = common.get("recipes") if isinstance(common, dict) else None
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError(f"{step}: its common.pt describes no model")

    # Resolved: the relative path "step_00001000" has no parents by name.
    directory = step.resolve().parent.parent
    run = run_config(directory)

    def describe(_: int, rows: int) -> ModelConfig:
        return described_model(config["model"], rows)

    return StoredModel(
        path=step,
        generation="training",
        version=None,
        kind=f"this project's training checkpoint, step {common.get('global_step')}, {weights.layout}",
        config={"recipes": {**config, **_document_start(run)}},
        tensors=weights.tensors,
        tokenizer=_tokenizer(run, directory / CHAT_TEMPLATE),
        describe=describe,
        files=weights.files,
        skipped=weights.skipped,
        needs_tokenizer=False,
        held=held,
    )


def _step(path: Path, verify_files: bool) -> tuple[Path, BinaryIO] | None:
    """The checkpoint that is meant, and what keeps its run from deleting it."""
    if (path / MANIFEST).is_file():
        held = hold(path)
        if verify_files:
            verify(path)
        return path, held
    if not (path / CHECKPOINTS).is_dir():
        return None
    candidates = finished_checkpoints(path / CHECKPOINTS)
    for step in reversed(candidates):
        # One that is damaged, or that its run deletes just now, is passed over.
        with suppress(UserError):
            held = hold(step)
            if verify_files:
                verify(step)
            return step, held
    if candidates:
        raise UserError(f"{path}: none of its {counted(len(candidates), 'checkpoint')} is whole")
    raise UserError(f"{path}: the run has no finished checkpoint yet")


def run_config(run: Path) -> dict[str, Any]:
    """What a run's config.yaml holds; {} if there is none.

    Raises:
        UserError: it cannot be read, or is not plain YAML.
    """
    blob = DirectoryFiles(run).find(RUN_CONFIG)
    return read_yaml(blob) if blob is not None else {}


def _tokenizer(run: dict[str, Any], chat_template: Path) -> StoredTokenizer:
    """The file that the run's configuration names; it is the user's own run, so the path is followed.

    The run's own chat template, if it has one, goes before the tokenizer's.
    """
    section = run.get("tokenizer")
    name = str(section.get("model") or "") if isinstance(section, dict) else ""
    found = tokenizer_on_disk(name) if name else StoredTokenizer("sentencepiece", name, {})
    if name:
        here = "" if Path(name).is_absolute() else ", seen from the present directory"
        found = replace(found, where=f"any more{here}; the run's model.nemo holds it")
    if not chat_template.is_file():
        return found
    own = {chat_template.name: blob_of(chat_template)}
    if found.library == HUGGING_FACE:
        return replace(found, blobs={**found.blobs, **own})
    return replace(found, beside=own)


def _document_start(run: dict[str, Any]) -> dict[str, DocumentStart]:
    """What stood before every document, as the sidecars of the run's data say; {} where they are gone."""
    try:
        sources = run["data"]["train"].values()
        prefixes = [find_prefixes(source["path"]) for source in sources if source["weight"] > 0]
        sidecars = [read_sidecar(prefix) for found in prefixes for prefix in found]
    except (UserError, OSError, AttributeError, KeyError, TypeError):
        return {}
    known = [sidecar for sidecar in sidecars if sidecar is not None]
    if not all(prefixes) or not sidecars or len(known) < len(sidecars):
        return {}
    separate = run["data"].get("reset_attention_mask") is True
    return {"document_start": document_start_of(known, separate=separate)}
