"""Tokens that only one of a directory's files knows: the judge is transformers' AutoTokenizer."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from recipes.checkpoint.huggingface.tokenizer import write_tokenizer
from recipes.data.tokenizer import load_tokenizer
from recipes.data.tokenizer.train import train_tokenizer
from recipes.errors import UserError
from tests.support.tokenizer_texts import ENGLISH, HINDI

SIZE = 400
FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# New ones, one that is special already, one that is a plain piece, and one that is no NFC.
CONTENTS = ["<extra>", "<|im_end|>", "[PAD]", "संकेत", "<|pad|>", "th", " in", "e\u0301x"]


@pytest.fixture(scope="module", params=["byte_bpe", "unigram", "bpe"])
def plain(request: Any, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with tokenizer.json alone, and no record of its training."""
    directory: Path = tmp_path_factory.mktemp("plain") / request.param
    if request.param == "byte_bpe":
        train_tokenizer([corpus], directory, vocab_size=SIZE, model_type="byte_bpe")
    else:
        directory.mkdir()
        train_tokenizer([corpus], directory / "tok", vocab_size=330, model_type=request.param)
        write_tokenizer(directory, directory / "tok.model", document_start="bos", max_length=64)
    for file in directory.iterdir():
        if file.name != "tokenizer.json":
            file.unlink()
    return directory


def write(directory: Path, **documents: dict[str, Any]) -> Path:
    for name in FILES:
        (directory / name).unlink(missing_ok=True)
    for name, document in documents.items():
        (directory / f"{name}.json").write_text(json.dumps(document), "utf-8")
    return directory


def names_of(directory: Path) -> tuple[str, str]:
    added = json.loads((directory / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    return added[0]["content"], added[1]["content"]


def listed(content: str, **flags: bool) -> dict[str, Any]:
    usual = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word", "special"), False)
    return {"content": content, **usual, **flags}


flags = st.fixed_dictionaries(
    {"lstrip": st.booleans(), "normalized": st.booleans(), "special": st.booleans()},
)
tokens = st.builds(lambda content, flags: listed(content, **flags), st.sampled_from(CONTENTS), flags)
kinds = st.sampled_from(["bos", "eos", "unk", "sep", "pad", "cls", "mask", "image"])
named = st.dictionaries(kinds.map("{}_token".format), st.sampled_from(CONTENTS), max_size=3)
extra = st.one_of(
    st.just({}),
    st.lists(st.sampled_from(CONTENTS), unique=True, max_size=2).map(
        lambda found: {"extra_special_tokens": found}
    ),
    st.lists(st.sampled_from(CONTENTS), max_size=2).map(lambda found: {"additional_special_tokens": found}),
    st.just({"extra_special_tokens": {"audio_token": "<extra>"}}),
)
lists = st.one_of(
    st.just({}),
    st.dictionaries(st.integers(0, SIZE + 60).map(str), tokens, max_size=3).map(
        lambda found: {"added_tokens_decoder": found}
    ),
)
configs = st.builds(lambda a, b, c: {**a, **b, **c}, named, extra, lists)
map_values = st.one_of(st.sampled_from(CONTENTS), st.sampled_from(CONTENTS).map(listed))
maps = st.none() | st.dictionaries(kinds.map("{}_token".format), map_values, max_size=3)
added = st.none() | st.dictionaries(st.sampled_from(CONTENTS), st.integers(SIZE, SIZE + 9), max_size=3)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=configs, older=maps, listing=added)
@example(config={"added_tokens_decoder": {"999": listed("<extra>")}}, older=None, listing=None)
@example(config={}, older={"pad_token": "[PAD]"}, listing={"[PAD]": SIZE, "<extra>": SIZE + 1})
@example(config={"pad_token": "[PAD]"}, older={"pad_token": "<|im_end|>"}, listing=None)
@example(config={}, older=None, listing={"संकेत": SIZE})
def test_ids_are_those_of_transformers(
    plain: Path,
    tmp_path_factory: pytest.TempPathFactory,
    config: dict[str, Any],
    older: dict[str, Any] | None,
    listing: dict[str, int] | None,
) -> None:
    directory = tmp_path_factory.mktemp("same") / "tokenizer"
    shutil.copytree(plain, directory)
    start, end = names_of(plain)
    # One of them is needed; and a class of transformers' own would rebuild the tokenizer.
    config = {"eos_token": end, "bos_token": start, **config, "tokenizer_class": "PreTrainedTokenizerFast"}
    documents = {"tokenizer_config": config, "special_tokens_map": older, "added_tokens": listing}
    write(directory, **{name: document for name, document in documents.items() if document is not None})
    theirs, ours = AutoTokenizer.from_pretrained(directory), load_tokenizer(directory)
    assert ours.vocab_size == max(theirs.get_vocab().values()) + 1
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (
        theirs.bos_token_id,
        theirs.eos_token_id,
        theirs.pad_token_id,
    )
    pieces = list(range(ours.vocab_size))
    assert [ours.id_to_piece(token) for token in pieces[-20:]] == theirs.convert_ids_to_tokens(pieces[-20:])
    special = {token.content for token in theirs.added_tokens_decoder.values() if token.special}
    for text in (ENGLISH, HINDI, *(f"in {name} town, the {name}{name}th" for name in CONTENTS)):
        if any(name in text for name in special):
            continue  # Special tokens that are pieces too are hidden from the model here.
        nfc = unicodedata.normalize("NFC", text)  # As all text that is tokenized here.
        assert ours.encode(text) == theirs(nfc, add_special_tokens=False, split_special_tokens=True).input_ids


def test_a_known_token_decides_the_ids(plain: Path, tmp_path: Path) -> None:
    directory = tmp_path / "d"
    shutil.copytree(plain, directory)
    start, end = names_of(plain)
    config = {"bos_token": start, "eos_token": end}
    before = load_tokenizer(write(directory, tokenizer_config=config))
    same = {"added_tokens_decoder": {"0": listed(start, special=True)}, **config}
    assert load_tokenizer(write(directory, tokenizer_config=same)).sha256 == before.sha256
    more = {"added_tokens_decoder": {"9999": listed("<extra>")}, **config}
    after = load_tokenizer(write(directory, tokenizer_config=more))
    assert after.sha256 != before.sha256 and after.vocab_size == before.vocab_size + 1
    assert after.encode("in <extra> town").count(before.vocab_size) == 1
    assert after.decode(after.encode("in <extra> town")) == "in <extra> town"


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ({"tokenizer_config": {"added_tokens_decoder": ["<a>"]}}, "added_tokens_decoder is no JSON object"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": listed("<a>")}}}, "'x' is no id with a token"),
        ({"tokenizer_config": {"added_tokens_decoder": {"9": "<a>"}}}, "'9' is no id with a token"),
        ({"tokenizer_config": {"added_tokens_decoder": {"9": {"content": 1}}}}, "'1' is no token"),
        (
            {"tokenizer_config": {"added_tokens_decoder": {"9": {"content": "<a>", "lstrip": "no"}}}},
            "'<a>' is no token, or a setting of it is none",
        ),
        ({"tokenizer_config": {"eos_token": "\ud800"}}, "is no token"),
        ({"tokenizer_config": {"extra_special_tokens": 7}}, "extra_special_tokens is no list of tokens"),
        ({"added_tokens": {"<a>": "7"}}, "'<a>' has no id"),
        ({"added_tokens": {"<a>": -7}}, "'<a>' has no id"),
    ],
)
def test_damaged(plain: Path, tmp_path: Path, documents: dict[str, Any], message: str) -> None:
    directory = tmp_path / "d"
    shutil.copytree(plain, directory)
    with pytest.raises(UserError) as caught:
        load_tokenizer(write(directory, **documents))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def model_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a SentencePiece model, as releases before tokenizer.json are."""
    directory = tmp_path_factory.mktemp("model_alone") / "tokenizer"
    directory.mkdir()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([ENGLISH, HINDI] * 20), model_prefix=str(directory / "tokenizer"),
        minloglevel=2, vocab_size=300, model_type="bpe", user_defined_symbols=["<sep>"],
        hard_vocab_limit=False,
    )  # fmt: skip
    (directory / "tokenizer.vocab").unlink()
    return directory


KNOWN: dict[str, Any] = {
    "tokenizer_config": {"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>"}},
    "special_tokens_map": {"unk_token": "<unk>", "additional_special_tokens": ["<sep>"]},
    "added_tokens": {"<unk>": 0, "<sep>": 3},
}


@pytest.mark.parametrize(
    "change",
    [
        lambda documents: documents["added_tokens"].update({"[PAD]": 300}),
        lambda documents: documents["added_tokens"].update({"<sep>": 4}),
        lambda documents: documents["special_tokens_map"].update(pad_token="[PAD]"),
        lambda documents: documents["special_tokens_map"].update(additional_special_tokens=["<|im_end|>"]),
        lambda documents: documents["tokenizer_config"].update(added_tokens_decoder={"1": listed("<bos>")}),
        lambda documents: documents["tokenizer_config"].update(mask_token="<mask>"),
    ],
)
def test_a_sentencepiece_model_is_not_all(
    model_alone: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    """The model would encode such a text otherwise than transformers does."""
    directory = tmp_path / "d"
    shutil.copytree(model_alone, directory)
    expected = load_tokenizer(directory / "tokenizer.model").encode(HINDI)
    documents = json.loads(json.dumps(KNOWN))
    assert load_tokenizer(write(directory, **documents)).encode(HINDI) == expected
    change(documents)
    with pytest.raises(
        UserError, match=r"lacks the token .* have transformers write a tokenizer.json with both"
    ):
        load_tokenizer(write(directory, **documents))
