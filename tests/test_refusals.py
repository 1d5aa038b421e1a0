"""What can be refused before anything heavy is imported, at every door: one line, and no torch."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.support.nemo_files import MAIN
from tests.support.spy import ENGINE, Spied, spy
from tests.support.tiny_text_model import FIXTURE

MODEL = str(MAIN / "model.nemo")
#: Door and arguments, in which {} is a directory with the files of `place`, and a part of the answer.
REFUSALS: list[tuple[str, str]] = [
    # A file that is not there.
    ("tools.convert {}/no.nemo {}/new --to hf", "{}/no.nemo: no such file or directory"),
    ("tools.extract {}/no.nemo {}/new", "{}/no.nemo: no such file"),
    ("tools.inspect {}/no.nemo", "{}/no.nemo: no such file or directory"),
    ("tools.pack {}/no {}/new.nemo", "{}/no: no such directory"),
    ("tools.preprocess {}/text.jsonl --tokenizer {}/no.model --out {}/new", "{}/no.model: No such file"),
    ("tools.train_tokenizer {}/no.jsonl --out {}/new", "{}/no.jsonl: No such file"),
    ("tools.tokenizer_report {}/no.model --text {}/text.jsonl", "{}/no.model: No such file"),
    ("tools.report {}/no", "{}/no: no such run directory"),
    ("tools.release {}/no {}/new --licence mit", "{}/no/config.yaml: no such file"),
    ("tools.release {}/other {}/new --licence mit", "{}/other/config.yaml: no such file"),
    ("tools.release {}/other {}/new", "required: --licence"),
    ("tools.release {}/no {}/other --licence mit", "{}/other exists; name a new file or directory"),
    ("tools.release {}/no {}/new --licence mit --remarks {}/no.md", "{}/no.md: No such file"),
    (
        "tools.release {}/no {}/new --licence mit --llama-cpp {}/other",
        "--llama-cpp {}/other: holds no convert_hf_to_gguf.py",
    ),
    ("recipes.generate gpt_model_file={}/no.nemo prompts=[x]", "gpt_model_file={}/no.nemo: no such file"),
    ("recipes.generate gpt_model_file=MODEL prompts_jsonl={}/no.jsonl", "prompts_jsonl={}/no.jsonl: no such"),
    ("recipes.evaluate gpt_model_file={}/no.nemo tasks=[boolq]", "gpt_model_file={}/no.nemo: no such file"),
    ("recipes.pretrain RUN data_dir={}/no", "{}/no/train_en.bin does not exist"),
    (
        "tools.clean data.sources={en:{path:[{}/no.jsonl],language:eng_Latn}} output_dir={}/new",
        "no JSONL file",
    ),
    # A file of another kind.
    ("tools.convert {}/text.nemo {}/new --to hf", "{}/text.nemo: not a .nemo archive"),
    ("tools.extract {}/text.nemo {}/new", "{}/text.nemo: not a .nemo archive"),
    ("tools.inspect {}/text.nemo", "{}/text.nemo: not a .nemo archive"),
    ("recipes.generate gpt_model_file={}/text.nemo prompts=[x]", "text.nemo: is no .nemo archive"),
    ("recipes.evaluate gpt_model_file={}/text.nemo tasks=[boolq]", "text.nemo: is no .nemo archive"),
    ("tools.preprocess {}/text.jsonl --tokenizer {}/text.nemo --out {}/new", "is not a SentencePiece model"),
    # A directory without a model.
    ("tools.convert {}/other {}/new --to hf", "{}/other: holds no model that is known here"),
    ("tools.inspect {}/other", "{}/other: holds no model that is known here"),
    ("tools.pack {}/other {}/new.nemo", "{}/other: holds no model that is known here"),
    ("recipes.generate gpt_model_file={}/other prompts=[x]", "{}/other: this directory holds no model"),
    ("tools.convert {}/weightless {}/new --to nemo", "{}/weightless: holds neither model.safetensors nor"),
    ("recipes.generate gpt_model_file={}/weightless prompts=[x]", "{}/weightless: holds neither model.safe"),
    (
        "recipes.evaluate gpt_model_file={}/weightless tasks=[boolq]",
        "{}/weightless: holds neither model.safe",
    ),
    ("tools.report {}/other", "{}/other: no metrics.jsonl here"),
    # A place that is taken.
    ("tools.convert MODEL {}/other --to hf", "{}/other exists; name a new file or directory"),
    ("tools.convert MODEL {}/text.nemo --to nemo", "{}/text.nemo exists; name a new file or directory"),
    ("tools.convert MODEL {}/no/new --to hf", "{}/no: no such directory; make it first"),
    ("tools.extract MODEL {}/other", "{}/other exists; name a new directory"),
    ("tools.pack {}/other {}/text.nemo", "{}/text.nemo exists; name a new file"),
    ("tools.make_corpus --out {}/other", "{}/other is not empty"),
    (
        "recipes.generate gpt_model_file=MODEL prompts_jsonl={}/text.jsonl output_jsonl={}/other",
        "cannot write {}/other: it exists and is not a regular file",
    ),
    (
        "recipes.evaluate gpt_model_file=MODEL tasks=[boolq] output={}/text.nemo",
        "choose another file, output=",
    ),
    ("tools.prefetch_benchmarks {}/text.nemo --tasks boolq --source MIRROR", "cannot write {}/text.nemo/"),
    # A task, or its data.
    ("recipes.evaluate gpt_model_file={}/no.nemo tasks=[bolq]", "no task 'bolq': did you mean boolq"),
    ("tools.prefetch_benchmarks {}/new --tasks bolq", "no task 'bolq': did you mean boolq"),
    ("recipes.evaluate gpt_model_file=MODEL tasks=[boolq]", "cannot load task boolq: http"),
    ("recipes.evaluate gpt_model_file=MODEL tasks=[boolq]", "set mirror=DIR to a copy of the data"),
    ("tools.prefetch_benchmarks {}/new --tasks boolq", "cannot be reached; run this where there is network"),
    (
        "recipes.evaluate gpt_model_file=MODEL tasks=[winogrande] mirror=MIRROR",
        "the mirror MIRROR: it has no",
    ),
    ("recipes.evaluate gpt_model_file=MODEL tasks=[boolq] mirror={}/other", "is not a benchmark mirror"),
    ("tools.prefetch_benchmarks {}/new --tasks boolq --source {}/other", "is not a benchmark mirror"),
    ("recipes.evaluate gpt_model_file=MODEL eval=minibench minibench={}/other", "{}/other/en.jsonl"),
    (
        "tools.check_chat_data {}/text.jsonl --tokenizer {}/no.model --seq-length 0",
        "--seq-length=0: must lie between 1 and 1,048,576",
    ),
    # A choice that there is not.
    ("tools.convert MODEL {}/new --to gguf", "invalid choice: 'gguf'"),
    ("tools.convert MODEL {}/new --to hf --layout bloom", "invalid choice: 'bloom'"),
    ("tools.convert MODEL {}/new --to nemo --layout param2moe", "only --to hf has layouts"),
    ("tools.train_tokenizer {}/text.jsonl --out {}/new --type wordpiece", "invalid choice: 'wordpiece'"),
    ("tools.download nothing --out {}/new", "source=nothing: choose one of"),
    ("tools.describe model=tinny", "did you mean tiny?"),
    ("benchmarks.scoring model=tinny", "did you mean tiny?"),
    ("benchmarks.step_time trainer.max_stepz=5", "did you mean trainer.max_steps?"),
    ("benchmarks.model_step --against nothing model=tiny", "data.seq_length=512: longer than model.max_posi"),
    ("tools.describe model=tiny model.num_layer=3", "did you mean model.num_layers"),
    ("recipes.pretrain RUN data_dir={}/no resume=maybe", "resume=maybe: choose one of auto, never"),
    ("recipes.generate gpt_model_file=MODEL prompts=[x] precision=fp8", "precision=fp8: choose one of"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("place")
    (directory / "text.nemo").write_text("text\n")
    (directory / "text.jsonl").write_text('{"text": "a b"}\n')
    for folder, file in (("other", "notes.txt"), ("weightless", "config.json")):
        (directory / folder).mkdir()
        (directory / folder / file).write_text('{"model_type": "llama"}')
    return directory


def filled_in(text: str, place: Path) -> str:
    run = f"experiment=quickstart output_dir={place}/new"
    words = {"{}": str(place), "MODEL": MODEL, "MIRROR": str(FIXTURE), "RUN": run}
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    return text


@pytest.fixture(scope="module")
def answers(place: Path) -> list[Spied]:
    """What each of REFUSALS answers, on a machine without network."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        patch.setenv("HF_ENDPOINT", closed)
        patch.setenv("HF_HOME", str(place / "cache"))
        commands = [filled_in(command, place).split() for command, _ in REFUSALS]
        return spy(*commands, preload="recipes.config.hydra_app")


@pytest.mark.parametrize("number", range(len(REFUSALS)), ids=[command for command, _ in REFUSALS])
def test_it_is_refused_without_the_engine(number: int, answers: list[Spied], place: Path) -> None:
    code, _, err, imported = answers[number]
    assert code == 2, err
    assert filled_in(REFUSALS[number][1], place) in err.splitlines()[-1]
    assert not imported & ENGINE
    assert not (place / "new").exists() and not (place / "new.nemo").exists()
