"""Text on the command line needs no quotes for Hydra's grammar; prompts are never interpolated."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from recipes.config.hydra_app import compose
from recipes.config.jobs import SCHEMAS
from recipes.config.overrides import quote_text
from recipes.errors import UserError

PRETRAIN = ["data.seq_length=8", "trainer.max_steps=1"]
NEMO2 = "/runs/gpt--val_loss=2.31-step=9-last"
REQUIRED = {
    "pretrain": ["name=x", *PRETRAIN],
    "generate": ["gpt_model_file=x"],
    "evaluate": ["gpt_model_file=x"],
    "clean": ["output_dir=x"],
}


@pytest.mark.parametrize("path", [NEMO2, "मॉडल/हिंदी", "a b/it's", 'say "x"', "a\\b", "x=", "एक=दो"])
@pytest.mark.parametrize(
    ("job", "key"),
    [
        ("pretrain", "init_from"),
        ("pretrain", "output_dir"),
        ("pretrain", "tokenizer.model"),
        ("pretrain", "data.train.en.path"),
        ("pretrain", "data.valid.hi"),
        ("generate", "gpt_model_file"),
        ("generate", "prompts_jsonl"),
        ("evaluate", "mirror"),
        ("clean", "decontamination.mirror"),
    ],
)
def test_any_path_is_taken_as_it_is(job: str, key: str, path: str) -> None:
    more = ["data.train={en:{path:x}}"] if key.startswith("data.train") else []
    more += ["data.valid={hi:x}"] if key.startswith("data.valid") else []
    required = [setting for setting in REQUIRED[job] if not setting.startswith(f"{key}=")]
    value = compose(job, [*required, *more, f"{key}={path}"])
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    assert value == path


def test_a_source_may_have_a_list_of_paths() -> None:
    source = "data.train={en:{path:x}}"
    config = compose("pretrain", [*REQUIRED["pretrain"], source, "data.train.en.path=[a,'b c=1']"])
    assert config.data.train["en"].path == ["a", "b c=1"]


# What has a meaning of its own at the beginning or the end of a value, or in it.
MEANINGFUL = ("'", '"', "[", "{", "(", "???", "null", "~")


@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1))
def test_text_comes_through(text: str) -> None:
    assume(not text.lower().startswith(MEANINGFUL) and "${" not in text and "," not in text)
    (quoted,) = quote_text([f"gpt_model_file={text}"], SCHEMAS["generate"])
    assume("(" not in text or quoted.startswith("gpt_model_file='"))  # choice(...) and the like are Hydra's.
    assert compose("generate", [f"gpt_model_file={text}"]).gpt_model_file == text


@pytest.mark.parametrize("name", ["2024_01", "1e5", "12", "true", "0.10"])
def test_text_that_looks_like_a_number_stays_text(name: str) -> None:
    assert compose("pretrain", [f"name={name}", *PRETRAIN]).name == name


def test_quotes_null_and_interpolations_keep_their_meaning() -> None:
    settings = ["name='a b'", "init_from=null", "tokenizer.model=${data_dir}/t=1", "data_dir=/d=e", *PRETRAIN]
    config = compose("pretrain", settings)
    assert (config.name, config.init_from, config.tokenizer.model) == ("a b", None, "/d=e/t=1")


@pytest.mark.parametrize(
    "prompt", ["${x}", "costs ${5} or $5", r"\${a} and \\${b}", "${oc.env:HOME}", "unfinished ${", "भारत ${"]
)
def test_prompts_are_never_interpolated(prompt: str) -> None:
    config = compose("generate", ["gpt_model_file=x", f'prompts=["{prompt}"]'])
    assert config.prompts == [prompt]
    config = compose("generate", ["gpt_model_file=x", f'inference.end_strings=["{prompt}"]'])
    assert config.inference.end_strings == [prompt]
    samples = ["trainer.samples.every_n_steps=1", f'trainer.samples.prompts=["{prompt}"]']
    assert compose("pretrain", ["name=x", *PRETRAIN, *samples]).trainer.samples.prompts == [prompt]


@pytest.mark.parametrize("argument", ["prompts=[भारत]", "inference={greedy:हाँ}"])
def test_what_cannot_be_read_is_refused_with_how_to_quote(argument: str) -> None:
    with pytest.raises(UserError, match="cannot be read; put text with special characters in quotes within"):
        compose("generate", ["gpt_model_file=x", argument])


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("arc_easy", ["arc_easy"]),
        ("arc_easy, mmlu", ["arc_easy", "mmlu"]),
        ("2024", ["2024"]),
        ("a=b(c),हिंदी", ["a=b(c)", "हिंदी"]),
        ("[a,b]", ["a", "b"]),
        ("[]", []),
    ],
)
def test_words_for_a_list(written: str, meant: list[str]) -> None:
    assert compose("evaluate", ["gpt_model_file=x", f"tasks={written}"]).tasks == meant


@pytest.mark.parametrize("prompt", ["Hello, world", "भारत", "f(x) = ${y}", "2 + 2", "it's"])
def test_a_prompt_needs_no_list(prompt: str) -> None:
    assert compose("generate", ["gpt_model_file=x", f"prompts={prompt}"]).prompts == [prompt]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("'Asha lives'", ["Asha lives"]),
        ('"a, ${b}"', ["a, ${b}"]),
        ("'a', 'b'", ["'a', 'b'"]),
        ('"Yes," she said, "no."', ['"Yes," she said, "no."']),
        ("[007, 1e3, true, 2024_01, 1.50, 'x, y', \\[z\\], -1]", None),
        ('["true", 1]', ["true", "1"]),
    ],
)
def test_texts_are_those_that_were_written(written: str, meant: list[str] | None) -> None:
    """Quotes around the whole are Hydra's, in lists and without; numbers keep their digits."""
    meant = meant or ["007", "1e3", "true", "2024_01", "1.50", "x, y", "[z]", "-1"]
    config = compose(
        "generate", ["gpt_model_file=x", f"prompts={written}", f"inference.end_strings={written}"]
    )
    assert (config.prompts, config.inference.end_strings) == (meant, meant)


def test_words_in_quotes() -> None:
    assert compose("evaluate", ["gpt_model_file=x", "tasks='arc_easy, mmlu'"]).tasks == ["arc_easy", "mmlu"]


@pytest.mark.parametrize("value", ["[null]", "[a,null]", "[{a: b}]", "[[a,b],c]"])
@pytest.mark.parametrize(("job", "key"), [("generate", "prompts"), ("evaluate", "tasks")])
def test_what_is_no_text_is_refused(job: str, key: str, value: str) -> None:
    with pytest.raises(UserError, match=f"^{key}=.* is no text; put text in quotes within the quotes$"):
        compose(job, ["gpt_model_file=x", f"{key}={value}"])


def test_words_of_a_sweep_are_a_list_for_each_run() -> None:
    (_, tasks) = quote_text(["-m", "tasks=a,b"], SCHEMAS["evaluate"])
    assert tasks == "tasks=['a'],['b']"
