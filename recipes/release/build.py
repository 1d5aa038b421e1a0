"""Makes a release: every form of the model, its card, and the proof that all of them are the same model.

The folder has a temporary name until it is verified, so that an interrupted release leaves nothing that looks
finished.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from recipes.checkpoint.convert import convert
from recipes.checkpoint.formats.archive import extract_archive, pack_archive
from recipes.checkpoint.formats.recognise import check_new
from recipes.checkpoint.huggingface.chat import default_template
from recipes.checkpoint.open import open_stored_model
from recipes.checkpoint.save.manifest import verify
from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.console import say
from recipes.data.samples.document_start import document_start_id
from recipes.errors import UserError
from recipes.families.tensors import WORD_EMBEDDINGS
from recipes.files import partial_directory, sha256_file
from recipes.inference.verify_conversion import Comparison, compare_forms
from recipes.release.benchmark_tables import benchmark_tables
from recipes.release.card import Card, WeightFacts, write_card
from recipes.release.data_facts import source_facts
from recipes.release.finished_run import FinishedRun, finished_run
from recipes.release.inference_script import completions, write_script
from recipes.release.llama_cpp import LlamaCpp, try_llama_cpp
from recipes.release.private import publishable, refuse_private, this_machine
from recipes.release.provenance import provenance, published_config
from recipes.report.chart_file import chart_svg
from recipes.report.run_data import RunData, read_run
from recipes.report.run_page import learning_rate_chart, loss_chart

NEMO, EXTRACTED, HUGGING_FACE, CURVES = "model.nemo", "model_extracted", "hf", "curves"
CONFIG = "model_config.yaml"
SUMS = "SHA256SUMS"
PROMPTS = ("The capital of India is", "भारत की राजधानी")
CHAT_PROMPTS = ("What is the capital of India?", "भारत की राजधानी क्या है?")
COMPLETED_TOKENS = 30


def write_release(
    run_path: Path,
    out: Path,
    *,
    licence: str,
    incomplete: bool = False,
    prompts: Sequence[str] = (),
    remarks: str = "",
    llama_cpp: LlamaCpp | None = None,
) -> None:
    """Makes the folder ``out`` of a run; it appears complete and verified, or not at all.

    Args:
        licence: of the model, as the card states it.
        incomplete: release a run whose training is not finished.
        prompts: examples for the card; () those that the run made samples of, or two of our own.
        remarks: Markdown for the card's section about intended use.
        llama_cpp: where it is, to run its converter and runtime on the model.

    Raises:
        UserError: the run is not complete, ``out`` exists, the forms of the model differ, or something in the
            folder must not be published.
    """
    check_new(out)
    with finished_run(run_path, incomplete=incomplete) as run:
        report = read_run(run_path)
        verify(run.checkpoint)
        prompts = list(prompts) or list(run.config.trainer.samples.prompts)
        known = f"{run.name} {licence} {remarks}"
        machine = this_machine([run_path, out, Path(run.config.output_dir)], known=known)
        with partial_directory(out) as folder:
            _write_yaml(folder / "config.yaml", published_config(run.directory))
            refuse_private(folder, machine)  # What it cannot clean, before all the work.
            _write_forms(run, folder)
            write_script(folder, NEMO)
            proof = compared(run, folder)
            with open_stored_model(folder / NEMO) as stored:
                weights = _weight_facts(stored)
                prompts = prompts or list(CHAT_PROMPTS if weights.chats else PROMPTS)
                in_llama_cpp = try_llama_cpp(stored, folder / HUGGING_FACE, prompts, llama_cpp)
            say("check  a completion by the folder's own nemo_inference.sh")
            examples = completions(folder, prompts, COMPLETED_TOKENS, chat=weights.chats)
            sources = source_facts(run)
            card = Card(
                licence=licence,
                weights=weights,
                sources=sources,
                tables=benchmark_tables(run, report),
                examples=examples,
                llama_cpp=in_llama_cpp,
                verification=_in_words(proof),
                remarks=remarks,
                curves=_write_curves(report, folder / CURVES),
            )
            (folder / "README.md").write_text(write_card(run, report, card), encoding="utf-8")
            facts = provenance(run, sources, {name: vars(found) for name, found in proof.items()})
            text = json.dumps(facts, ensure_ascii=False, indent=2) + "\n"
            (folder / "provenance.json").write_text(text, encoding="utf-8")
            say("check  no path or name of this machine, and no secret, in any file")
            refuse_private(folder, machine)
            _write_sums(folder)


def _write_forms(run: FinishedRun, folder: Path) -> None:
    """model.nemo, the same unpacked, and the Hugging Face folder."""
    say(f"write  {NEMO}, {EXTRACTED}/ and {HUGGING_FACE}/ of step {run.step:,}")
    nemo, extracted = folder / NEMO, folder / EXTRACTED
    if run.nemo is None:
        convert(run.checkpoint, nemo, "nemo")
        extract_archive(nemo, extracted)
    else:
        # Unpacked and packed again: the archive must not say whose files they were.
        extract_archive(run.nemo, extracted)
        config = yaml.safe_load((extracted / CONFIG).read_text(encoding="utf-8"))
        _write_yaml(extracted / CONFIG, publishable(config))
        pack_archive(extracted, nemo)
    convert(nemo, folder / HUGGING_FACE, "hf")


def compared(run: FinishedRun, folder: Path) -> dict[str, Comparison]:
    """The logits of model.nemo beside those of every other form, and of the checkpoint that it is made of.

    Raises:
        UserError: one differs.
    """
    say(f"check  logits of {NEMO}, {EXTRACTED}/, {HUGGING_FACE}/ and {run.checkpoint.name}")
    forms = {
        f"{EXTRACTED}/": folder / EXTRACTED,
        f"{HUGGING_FACE}/": folder / HUGGING_FACE,
        run.checkpoint.name: run.checkpoint,
    }
    found = dict(zip(forms, compare_forms(folder / NEMO, [*forms.values()]), strict=True))
    for name, comparison in found.items():
        if not comparison.sides_agree:
            raise UserError(
                f"{name} is not the model of {NEMO}: its logits differ by {comparison.difference:.3g}, "
                f"allowed are {comparison.bound * comparison.largest:.3g}; nothing was released"
            )
        if not comparison.readings_agree:
            raise UserError(
                f"{NEMO}: {comparison.second_reader} computes other logits from its configuration, by "
                f"{comparison.second_difference:.3g}; nothing was released"
            )
    return found


def _in_words(proof: dict[str, Comparison]) -> list[str]:
    lines = [
        f"`{name}` and `{NEMO}` give the same logits for English and Hindi text in fp32: the largest "
        f"difference is {found.difference:.2g}, the largest logit {found.largest:.3g}."
        for name, found in proof.items()
    ]
    first = next(iter(proof.values()))
    if first.second_reader is not None:
        lines.append(
            f"{first.second_reader}, reading `{CONFIG}` by its own rules, gives them too: the largest "
            f"difference is {first.second_difference:.2g}."
        )
    lines.append("The examples above were made by `nemo_inference.sh` from within this folder.")
    return lines


def _weight_facts(stored: StoredModel) -> WeightFacts:
    start = document_start_id(stored.document_start, stored.text_tokenizer)
    dtype = stored.tensors[WORD_EMBEDDINGS].dtype
    return WeightFacts(
        dtype=str(dtype).removeprefix("torch."),
        document_start=None if start is None else stored.text_tokenizer.id_to_piece(start),
        chats=default_template(stored.tokenizer) is not None,
    )


def _write_curves(report: RunData, directory: Path) -> list[str]:
    """The names of the pictures that were written."""
    directory.mkdir()
    charts = {"loss.svg": loss_chart(report), "learning_rate.svg": learning_rate_chart(report)}
    for name, chart in charts.items():
        if chart is not None:
            (directory / name).write_text(chart_svg(chart), encoding="utf-8")
    return [name for name, chart in charts.items() if chart is not None]


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _write_sums(folder: Path) -> None:
    """SHA256SUMS of every file, checked by the program with which readers will check it.

    Raises:
        UserError: a file changed, or could not be read again.
    """
    say(f"check  {SUMS}")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256_file(folder / file)}  {file}\n" for file in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", "--strict", SUMS], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"sha256sum -c {SUMS}: {' '.join((done.stdout + done.stderr).split())}")
