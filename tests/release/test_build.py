"""A release of a short run: what is in the folder, that it is verified, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from recipes.checkpoint.formats.archive import extract_archive, pack_archive
from recipes.checkpoint.nemo.stored_step import stored_step
from recipes.errors import UserError
from recipes.evaluation.kept_results import model_files
from recipes.files import sha256_file
from recipes.release.data_facts import source_facts
from recipes.release.finished_run import finished_run
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.release_cases import compared_case, interrupted_case, release_case
from tests.support.run_cases import run_case

STEPS = 6
PROMPT = "Suresh lives in"
LICENCE = "apache-2.0"


@dataclass(frozen=True)
class Released:
    run: Path
    folder: Path

    def text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def json(self, name: str) -> Any:
        return json.loads(self.text(name))


def evaluation(weights: str) -> dict[str, Any]:
    """A file in evaluation/: HellaSwag, of the model with this digest."""
    score = {"acc_norm,none": {"value": 0.716, "stderr": 0.0045}}
    return {
        "format": 1,
        "model": "tiny",
        "requested": ["hellaswag"],
        "tasks": {"hellaswag": {"scores": score, "n": 10042, "constant_answer": 0.25}},
        "settings": {
            "num_fewshot": 0,
            "limit": None,
            "model_files": weights,
            "versions": {"lm_eval": "0.4.13"},
        },
    }


@pytest.fixture(scope="module")
def run(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with an evaluation of its weights and one of others."""
    output = tmp_path_factory.mktemp("outputs")
    settings = tiny_data.overrides(
        output_dir=str(output), trainer__max_steps=str(STEPS), trainer__checkpoint__every_n_steps="3"
    )
    (outcome,) = gloo_pool.run(1, run_case, settings)
    assert outcome.code == 0, outcome.message
    directory = output / "tiny"
    (directory / "evaluation").mkdir()
    for name, weights in (("ours", model_files(directory / "model.nemo")), ("theirs", "another")):
        (directory / "evaluation" / f"{name}.json").write_text(json.dumps(evaluation(weights)))
    return directory


@pytest.fixture(scope="module")
def released(run: Path, gloo_pool: GlooPool, tmp_path_factory: pytest.TempPathFactory) -> Released:
    """Where a killed release left its beginnings."""
    folder = tmp_path_factory.mktemp("releases") / "tiny"
    stale = folder.with_name(".tiny.partial")
    stale.mkdir()
    (stale / "left_behind").write_text("by a kill")
    options = {"licence": LICENCE, "prompts": [PROMPT], "remarks": "Not for **medical** advice."}
    (refused,) = gloo_pool.run(1, release_case, run, folder, options)
    assert refused == "" and [path.name for path in folder.parent.iterdir()] == ["tiny"]
    return Released(run, folder)


def test_what_is_in_it(released: Released) -> None:
    names = {str(path.relative_to(released.folder)) for path in released.folder.rglob("*") if path.is_file()}
    top = {name for name in names if "/" not in name}
    assert top == {
        "README.md",
        "SHA256SUMS",
        "config.yaml",
        "model.nemo",
        "nemo_inference.sh",
        "provenance.json",
    }
    assert {"curves/loss.svg", "curves/learning_rate.svg", "hf/config.json", "hf/model.safetensors"} <= names
    assert (
        "model_extracted/model_config.yaml" in names and stored_step(released.folder / "model.nemo") == STEPS
    )
    for curve in ("loss", "learning_rate"):
        ElementTree.fromstring(released.text(f"curves/{curve}.svg"))
    sums = released.text("SHA256SUMS").splitlines()
    assert {line.split("  ", 1)[1] for line in sums} == names - {"SHA256SUMS"}
    done = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=released.folder, check=False)
    assert done.returncode == 0


def test_the_archive_is_the_extracted_directory_and_names_nobody(released: Released) -> None:
    with tarfile.open(released.folder / "model.nemo") as archive:
        for member in archive.getmembers():
            assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
            if file := archive.extractfile(member):
                assert (released.folder / "model_extracted" / member.name).read_bytes() == file.read()


def test_the_script_knows_its_model(released: Released) -> None:
    assert 'gpt_model_file="${gpt_model_file:-$here/model.nemo}"' in released.text("nemo_inference.sh")
    assert "/path_to_" not in released.text("nemo_inference.sh")


def test_the_card(released: Released) -> None:
    card = released.text("README.md")
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["language"]) == (LICENCE, ["en", "hi"])
    for said in (
        "# tiny\n",
        "It completes text. It was not tuned to follow instructions",
        "A language model of 212,032 parameters, trained from random weights on 1,536 tokens",
        "`LlamaForCausalLM`",
        f"./nemo_inference.sh inference.greedy=true -- '{PROMPT}'",
        "4 heads, 2 key-value heads, 16 wide",
        "| adamw, betas 0.9/0.95, weight decay 0.1, gradients clipped at 1 ",
        "![Loss](curves/loss.svg)",
        "Every document began with `</s>`.",
        "Not for **medical** advice.",
        f"```text\n{PROMPT}",
    ):
        assert said in card, said
    assert re.search(r"\| en +\| `train.en.jsonl` +\| +75.00 % +\| +1,152 \|", card)
    assert re.search(r"\| hi +\| `train.hi.jsonl` +\| +25.00 % +\| +384 \|", card)
    assert re.search(r"\| English +\| +[\d.]+ \| +[\d.]+ \|", card)
    assert "None" not in card and "{{" not in card and "not finished" not in card


def test_the_table_has_published_columns_and_only_this_models_results(released: Released) -> None:
    card = released.text("README.md")
    assert "Zero-shot, all documents, lm_eval 0.4.13." in card
    (header,) = [line for line in card.splitlines() if line.startswith("| task ")]
    assert " tiny " in header and " Param 1 |" in header
    (row,) = [line for line in card.splitlines() if line.startswith("| HellaSwag ")]
    assert "| 71.60 ± 0.45 |" in row and "| 71.4 (+0.4) |" in row
    assert card.count("| HellaSwag ") == 1


def test_provenance(released: Released, tiny_data: TinyData, run: Path) -> None:
    facts = released.json("provenance.json")
    assert (facts["step"], facts["steps"], facts["tokens"]) == (STEPS, STEPS, 1536)
    assert facts["released_with"]["torch"] and set(facts["trained_with"]) == {"version", "commit", "modified"}
    assert facts["configuration_sha256"] == sha256_file(run / "config.yaml")
    assert facts["configuration"] == yaml.safe_load(released.text("config.yaml"))
    assert facts["configuration"]["data"]["train"]["en"]["path"] == "train_en"
    assert facts["configuration"]["optim"]["lr"] == 0.001
    (english,) = [source for source in facts["data"] if source["name"] == "en"]
    (file,) = english["files"]
    assert file["bin_sha256"] == sha256_file(tiny_data.prefix("train_en") + ".bin")
    (text,) = file["inputs"]
    assert text["sha256"] == sha256_file(tiny_data.directory / "corpus" / "train.en.jsonl")
    proof = facts["verified"]
    assert set(proof) == {"model_extracted/", "hf/", "step_00000006"}
    assert all(form["difference"] <= 1e-4 * form["largest"] for form in proof.values())
    assert proof["hf/"]["second_reader"] == "megatron-core"


def test_sources_that_are_gone_or_no_longer_named(run: Path, tmp_path: Path) -> None:
    """What was read of them is in the checkpoint all the same."""
    copy = tmp_path / "tiny"
    shutil.copytree(run, copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["data"]["train"]["en"]["path"] = str(tmp_path / "gone")
    del config["data"]["train"]["hi"]
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    with finished_run(copy) as found:
        english, hindi = source_facts(found)
    assert (english.name, english.tokens_read, english.files, english.documents) == ("en", 1152, None, None)
    assert english.tokens and english.epochs and english.inputs == []
    assert (hindi.tokens_read, hindi.share, hindi.files) == (384, 0.25, None)


def test_no_path_of_this_machine(released: Released, run: Path, tiny_data: TinyData) -> None:
    for path in released.folder.rglob("*"):
        if path.is_file():
            for place in (run, released.folder, tiny_data.directory, Path.home() / "x"):
                assert str(place).encode() not in path.read_bytes(), path


# What is refused


def differing(run: Path, directory: Path) -> Path:
    """The run with a model.nemo whose weights are those of another step than it says."""
    copy = directory / "tiny"
    shutil.copytree(run, copy)
    extract_archive(copy / "model.nemo", directory / "x")
    weights = directory / "x" / "model_weights" / "__0_0.distcp"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4096] = bytes(4096)
    weights.write_bytes(bytes(content))
    (copy / "model.nemo").unlink()
    pack_archive(directory / "x", copy / "model.nemo")
    return copy


def test_a_nemo_that_is_not_its_checkpoint(run: Path, gloo_pool: GlooPool, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    options = {"licence": LICENCE, "prompts": [PROMPT]}
    copy = differing(run, tmp_path)
    (refused,) = gloo_pool.run(1, release_case, copy, tmp_path / "out" / "new", options)
    assert refused.startswith("step_00000006 is not the model of model.nemo: its logits differ by ")
    assert [*(tmp_path / "out").iterdir()] == []


def test_a_hugging_face_folder_that_differs(
    released: Released, run: Path, gloo_pool: GlooPool, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(released.folder, folder)
    assert gloo_pool.run(1, compared_case, run, folder) == [""]
    config = json.loads((folder / "hf" / "config.json").read_text())
    config["rms_norm_eps"] = 0.5
    (folder / "hf" / "config.json").write_text(json.dumps(config))
    (refused,) = gloo_pool.run(1, compared_case, run, folder)
    assert refused.startswith("hf/ is not the model of model.nemo: its logits differ by ")


def test_an_interrupted_release_leaves_nothing(run: Path, gloo_pool: GlooPool, tmp_path: Path) -> None:
    options = {"licence": LICENCE}
    assert gloo_pool.run(1, interrupted_case, run, tmp_path / "new", options) == [[]]


def test_a_token_in_the_configuration(run: Path, gloo_pool: GlooPool, tmp_path: Path) -> None:
    """Paths in it are cleaned, see test_private.py; a secret is not to be there at all."""
    copy, out = tmp_path / "tiny", tmp_path / "out"
    shutil.copytree(run, copy)
    out.mkdir()
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("data_dir: data", f"data_dir: hf_{'a' * 30}"))
    (refused,) = gloo_pool.run(1, release_case, copy, out / "new", {"licence": LICENCE, "prompts": [PROMPT]})
    assert refused.startswith("config.yaml holds what looks like a Hugging Face token")
    assert [*out.iterdir()] == []


@pytest.fixture
def unfinished(run: Path, tmp_path: Path) -> Path:
    """The run, which was to be longer; so it has no model.nemo yet."""
    copy = tmp_path / "tiny"
    shutil.copytree(run, copy)
    (copy / "model.nemo").unlink()
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("max_steps: 6", "max_steps: 100"))
    return copy


def test_a_run_that_is_not_complete(unfinished: Path) -> None:
    refused = r"has 6 of 100 steps; train the rest, or .* --incomplete"
    with pytest.raises(UserError, match=refused), finished_run(unfinished):
        pass
    with finished_run(unfinished, incomplete=True) as found:
        assert (found.step, found.steps, found.complete, found.nemo) == (6, 100, False, None)


@pytest.mark.slow
def test_an_incomplete_run_as_it_is(unfinished: Path, gloo_pool: GlooPool, tmp_path: Path) -> None:
    options = {"licence": "My own licence", "prompts": [PROMPT], "incomplete": True}
    assert gloo_pool.run(1, release_case, unfinished, tmp_path / "new", options) == [""]
    card = (tmp_path / "new" / "README.md").read_text()
    assert "Its training was not finished: this is step 6 of 100." in card
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["license_name"]) == ("other", "My own licence")
    assert "No benchmark was run." in card


@pytest.mark.slow
def test_a_chat_template_travels(run: Path, gloo_pool: GlooPool, tmp_path: Path) -> None:
    copy = tmp_path / "tiny"
    shutil.copytree(run, copy)
    extract_archive(copy / "model.nemo", tmp_path / "x")
    template = "{{ messages[0]['content'] }}"
    (tmp_path / "x" / "huggingface").mkdir()
    (tmp_path / "x" / "huggingface" / "chat_template.jinja").write_text(template)
    pack_archive(tmp_path / "x", copy / "model.nemo")
    options = {"licence": LICENCE, "prompts": [PROMPT]}
    assert gloo_pool.run(1, release_case, copy, tmp_path / "new", options) == [""]
    assert (tmp_path / "new" / "hf" / "chat_template.jinja").read_text() == template
    card = (tmp_path / "new" / "README.md").read_text()
    assert "It answers in conversations" in card and "apply_chat_template" in card
    assert f"inference.greedy=true chat=true -- '{PROMPT}'" in card and f"User: {PROMPT}\nModel: " in card


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Another process has the run's lock."""
    code = (
        "import sys, time; from pathlib import Path; from recipes.training.run_lock import RunLock\n"
        "RunLock(Path(sys.argv[1])).acquire(); print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield
    finally:
        process.kill()
        process.communicate()


def test_a_run_that_is_being_trained(run: Path) -> None:
    with held(run), pytest.raises(UserError, match="is being written by another process"), finished_run(run):
        pass
    with finished_run(run) as found:
        assert found.complete and found.nemo == run / "model.nemo"


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml: no such file"), finished_run(tmp_path):
        pass
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "config.yaml").write_text("model: {num_layers: x}\n")
    with pytest.raises(UserError, match=r"config\.yaml: "), finished_run(tmp_path):
        pass
