"""What a chat model's directory says beyond its ids survives: its template, and all that ends a turn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipes.checkpoint.convert import convert
from recipes.checkpoint.huggingface import chat
from recipes.checkpoint.open import open_stored_model
from recipes.errors import UserError
from recipes.inference.text_model import load_text_model
from tests.support.nemo_files import MAIN, read_tar

TEMPLATE = "{% for m in messages %}<|{{ m.role }}|> {{ m.content }}\n{% endfor %}नमस्ते"
GENERATION = {"bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 2, "temperature": 0.6}


def edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture(params=["sentencepiece", "tokenizer.json", "tokenizer.model"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Both forms of the tokenizer, which agree, or one of them."""
    path = tmp_path / "hf"
    convert(MAIN / "model.nemo", path, "hf")
    if request.param != "sentencepiece":
        (path / ({"tokenizer.json", "tokenizer.model"} - {request.param}).pop()).unlink()
    (path / chat.TEMPLATE).write_text(TEMPLATE, encoding="utf-8")
    edited(
        path / chat.SETTINGS, lambda settings: settings.update(chat_template=TEMPLATE, padding_side="left")
    )
    (path / chat.GENERATION).write_text(json.dumps(GENERATION))
    return path


def check(path: Path) -> None:
    assert (path / chat.TEMPLATE).read_text(encoding="utf-8") == TEMPLATE
    assert json.loads((path / chat.SETTINGS).read_bytes())["chat_template"] == TEMPLATE
    generation = json.loads((path / chat.GENERATION).read_bytes())
    assert generation.items() >= GENERATION.items() and generation["use_cache"] is True


def test_to_hugging_face(directory: Path, tmp_path: Path) -> None:
    convert(directory, tmp_path / "out", "hf")
    check(tmp_path / "out")
    if (directory / "tokenizer.json").exists():
        for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
            before = directory / name
            assert not before.exists() or (tmp_path / "out" / name).read_bytes() == before.read_bytes()


@pytest.mark.parametrize("form", ["nemo", "nemo2"])
def test_through_nemo(form: str, directory: Path, tmp_path: Path) -> None:
    convert(directory, tmp_path / "stored", form)
    convert(tmp_path / "stored", tmp_path / "again", form)
    convert(tmp_path / "again", tmp_path / "out", "hf")
    check(tmp_path / "out")
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == TEMPLATE
    ids = tokenizer("नदी", add_special_tokens=False)["input_ids"]
    assert ids == list(load_text_model(str(tmp_path / "stored"), num_threads=1).tokenizer.encode("नदी"))
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [2, 5]


def test_nothing_is_stored_where_there_is_nothing_to_say(tmp_path: Path) -> None:
    convert(MAIN / "model.nemo", tmp_path / "hf", "hf")
    convert(tmp_path / "hf", tmp_path / "x.nemo", "nemo")
    assert not [name for name in read_tar(tmp_path / "x.nemo") if "huggingface" in name]
    edited(tmp_path / "hf" / chat.GENERATION, lambda content: content.update(eos_token_id=5))
    convert(tmp_path / "hf", tmp_path / "y.nemo", "nemo")
    assert [name for name in read_tar(tmp_path / "y.nemo") if "huggingface" in name] == [
        "./huggingface/generation_config.json"
    ]


def test_several_templates_in_a_list(tmp_path: Path) -> None:
    """As transformers wrote them before 4.50."""
    convert(MAIN / "model.nemo", tmp_path / "hf", "hf")
    templates = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": "x"}]
    edited(tmp_path / "hf" / chat.SETTINGS, lambda settings: settings.update(chat_template=templates))
    convert(tmp_path / "hf", tmp_path / "x.nemo", "nemo")
    convert(tmp_path / "x.nemo", tmp_path / "out", "hf")
    assert json.loads((tmp_path / "out" / chat.SETTINGS).read_bytes())["chat_template"] == templates


def test_a_folder_of_templates_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(MAIN / "model.nemo", tmp_path / "hf", "hf")
    assert "additional_chat_templates" not in capsys.readouterr().err
    (tmp_path / "hf" / "additional_chat_templates").mkdir()
    (tmp_path / "hf" / "additional_chat_templates" / "tool_use.jinja").write_text("x")
    convert(tmp_path / "hf", tmp_path / "out", "hf")
    assert "additional_chat_templates has no place" in capsys.readouterr().err


def test_without_a_tokenizer(directory: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer.model"):
        (directory / name).unlink(missing_ok=True)
    convert(directory, tmp_path / "out", "hf")
    check(tmp_path / "out")


def test_ends_of_a_tokenizer_that_came_with_another_model() -> None:
    """The tokenizer's own ids hold; a turn may also end as it did there."""
    ours = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "use_cache": False}

    def merged(**theirs: Any) -> dict[str, Any]:
        return chat.merged_generation(ours, theirs, same_model=False)

    assert merged() == ours
    assert merged(eos_token_id=[5, 2], bos_token_id=7) == {**ours, "eos_token_id": [5, 2]}
    assert merged(eos_token_id=5, top_p=0.9, use_cache=True) == {**ours, "eos_token_id": [2, 5], "top_p": 0.9}
    same = chat.merged_generation(ours, {"eos_token_id": 5, "use_cache": True}, same_model=True)
    assert same == {**ours, "eos_token_id": 5}  # A class of our own has no cache, whatever the file says.


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (chat.TEMPLATE, "x" * 1_000_001, "no such file has more than"),
        (chat.GENERATION, "[" * 100_000, "not readable as JSON"),
        (chat.GENERATION, "[1]", "holds no JSON object"),
        (
            chat.GENERATION,
            '{"a": ' + "[" * 900 + "]" * 900 + "}",
            "nested too deeply|not readable|no such file",
        ),
        (chat.SETTINGS, '{"chat_template": "' + "x" * 1_000_001 + '"}', "no such file has more than"),
    ],
)
def test_damaged_and_huge_ones(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "hf"
    convert(MAIN / "model.nemo", path, "hf")
    (path / "tokenizer.json").unlink()
    (path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        convert(path, tmp_path / "out.nemo", "nemo")
    assert not (tmp_path / "out.nemo").exists()


def test_a_long_name_of_a_tokenizer(tmp_path: Path) -> None:
    """A member of a .nemo has its name in one header, which 25 letters of Devanagari do not fit into."""
    from tests.support.nemo_files import FIXTURES

    model = tmp_path / "model"
    shutil.copytree(FIXTURES / "nemo2_local" / "ckpt", model)
    name = "शब्दकोश" * 4 + ".model"
    (model / "context" / "tiny_sp.model").rename(model / "context" / name)
    config = model / "context" / "model.yaml"
    config.write_text(config.read_text().replace("model_path: tiny_sp.model", f"model_path: {name}"))
    convert(model, tmp_path / "x.nemo", "nemo")
    with open_stored_model(tmp_path / "x.nemo") as source:
        assert source.text_tokenizer.vocab_size == 448 and source.tokenizer.name.endswith(".model")
