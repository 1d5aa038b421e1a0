"""chat=true: prompts become turns by the stored template, typed lines one conversation."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from recipes.checkpoint.convert import convert
from recipes.checkpoint.huggingface.chat import TEMPLATE
from recipes.config.schema import InferenceConfig
from recipes.data.chat.template import DEFAULT
from recipes.errors import UserError
from recipes.inference.chat_template import template_of
from recipes.inference.complete import complete
from recipes.inference.text_model import GPTTextModel, load_text_model
from tests.support.forked import run_forked
from tests.support.nemo_files import MAIN

SETTINGS = InferenceConfig(greedy=True, tokens_to_generate=5)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NeMo's fixture with the default template."""
    directory = tmp_path_factory.mktemp("chat")
    convert(MAIN / "model.nemo", directory / "hf", "hf")
    (directory / "hf" / TEMPLATE).write_text(DEFAULT)
    convert(directory / "hf", directory / "chat.nemo", "nemo")
    return directory / "chat.nemo"


@pytest.fixture(scope="module")
def model(stored: Path) -> GPTTextModel:
    return load_text_model(str(stored), precision="fp32", num_threads=1)


def completed(model: GPTTextModel, text: str) -> str:
    """The continuation of a text to the letter, without anything before it."""
    settings = InferenceConfig(greedy=True, tokens_to_generate=5, add_BOS=False)
    (result,) = complete(model, [text], settings, batch_size=1, seed=1)
    return result.completion


def typed(model: Path, lines: str, *settings: str) -> subprocess.CompletedProcess[str]:
    common = [f"gpt_model_file={model}", "inference.greedy=true", "inference.tokens_to_generate=5"]
    common += ["num_threads=1", "precision=fp32", "chat=true"]
    return run_forked("recipes.generate", *common, *settings, typed=lines)


def test_prompts_are_turns(stored: Path, model: GPTTextModel) -> None:
    (answer,) = complete(model, ["भारत"], SETTINGS, batch_size=1, seed=1, chat=template_of(str(stored)))
    assert answer.prompt == "भारत" and answer.completion
    assert answer.completion == completed(model, "User: भारत\nAssistant:")


def test_lines_are_turns_of_one_conversation(stored: Path, model: GPTTextModel) -> None:
    done = typed(stored, "A\nB\n/reset\nB\n", "interactive=true")
    assert (done.returncode, done.stderr) == (0, "")
    first, second, fresh = done.stdout.splitlines()
    assert first == completed(model, "User: A\nAssistant:").lstrip()
    assert fresh == completed(model, "User: B\nAssistant:").lstrip() and fresh != second


def test_models_without_a_template(stored: Path) -> None:
    with pytest.raises(UserError, match="is stored without a chat template"):
        template_of(str(MAIN / "model.nemo"))
    done = typed(stored, "", "prompts=[A]", "inference.add_BOS=true")
    assert done.returncode == 2 and "would be ignored: the chat template decides" in done.stderr
