"""GPTTextModel's logits at chosen positions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recipes.data.tokenizer import load_tokenizer
from recipes.errors import UserError
from recipes.inference import text_model
from recipes.inference.text_generator import TextGenerator
from recipes.inference.text_model import GPTTextModel, load_text_model
from tests.support.corpus import TinyData
from tests.support.engine import initialized
from tests.support.huggingface_models import CASES, shaken
from tests.support.nemo_files import FIXTURES, MAIN

pytestmark = pytest.mark.usefixtures("engine")


@pytest.mark.parametrize("case", ["llama", "gemma3", "nano_hindi", "param_moe"])
def test_logits_at_chosen_places(case: str, tiny_data: TinyData) -> None:
    """Those of all places, for every family's own end of the model (soft caps, tied tables)."""
    tokenizer = load_tokenizer(Path(tiny_data.tokenizer))
    gpt = shaken(initialized(replace(CASES[case], vocab_size=tokenizer.vocab_size)))
    model = GPTTextModel(gpt, tokenizer, name="tiny", max_sequence_length=64, document_start_id=None)
    tokens = torch.randint(700, (3, 20), generator=torch.Generator().manual_seed(0))
    rows, places = torch.tensor([0, 2, 2, 1]), torch.tensor([19, 0, 7, 7])
    seen = []
    handle = gpt.output_layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:2]))
    chosen = model.logits_at(tokens, rows, places)
    handle.remove()
    assert chosen.shape == (4, tokenizer.vocab_size)
    torch.testing.assert_close(chosen, model.logits(tokens)[rows, places], rtol=0, atol=1e-5)
    # The head was computed there alone, and is whole again afterwards.
    assert model.logits(tokens).shape == (3, 20, tokenizer.vocab_size)


@pytest.mark.parametrize("case", ["llama", "gemma3", "nano_hindi", "param_moe"])
def test_continuations_of_a_context_that_is_read_once(case: str, tiny_data: TinyData) -> None:
    """As if each had been read with its context: windows, both rotary bases, value embeddings, experts."""
    tokenizer = load_tokenizer(Path(tiny_data.tokenizer))
    gpt = shaken(initialized(replace(CASES[case], vocab_size=tokenizer.vocab_size)))
    model = GPTTextModel(gpt, tokenizer, name="tiny", max_sequence_length=64, document_start_id=None)
    generator = torch.Generator().manual_seed(0)
    contexts = torch.randint(700, (2, 9), generator=generator)
    owners = torch.tensor([0, 0, 1, 0, 1])
    continuations = torch.randint(700, (5, 4), generator=generator)
    rows, places = torch.tensor([0, 0, 1, 2, 4, 4]), torch.tensor([0, 1, 3, 2, 0, 3])
    found = model.logits_after(contexts, owners, continuations, rows, places)
    expected = TextGenerator.logits_after(model, contexts, owners, continuations, rows, places)
    assert found.shape == (8, tokenizer.vocab_size)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_one_context_is_kept_for_the_next_call(tiny_data: TinyData) -> None:
    tokenizer = load_tokenizer(Path(tiny_data.tokenizer))
    gpt = shaken(initialized(replace(CASES["llama"], vocab_size=tokenizer.vocab_size)))
    model = GPTTextModel(gpt, tokenizer, name="tiny", max_sequence_length=64, document_start_id=None)
    read: list[int] = []
    gpt.output_layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].shape[0]))
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randint(700, (2, 1, 9), generator=generator)
    continuations = torch.randint(700, (3, 4), generator=generator)
    rows = places = torch.tensor([0, 1, 2])
    for context in (one, one, other, one):
        found = model.logits_after(context, torch.zeros_like(rows), continuations, rows, places)
        expected = TextGenerator.logits_after(
            model, context, torch.zeros_like(rows), continuations, rows, places
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert read == [1, 4, 9, 13, 4, 9, 13, 1, 4, 9, 13, 1, 4, 9, 13]  # 1: what follows the context


@pytest.mark.parametrize("inference", [False, True])
def test_weights_of_another_type(inference: bool) -> None:
    """bf16 weights into an fp32 model: read in pieces, by threads, into parameters that want gradients."""
    with torch.inference_mode(inference):
        model = load_text_model(
            str(FIXTURES / "classic_te_torch_dist_bf16" / "model.nemo"), precision="fp32", num_threads=2
        )
    logits = model.logits(torch.tensor([[1, 5, 6]]))
    assert logits.dtype == torch.float32 and logits.isfinite().all()


def test_weights_for_which_there_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says how they can be split; any other failure keeps its traceback."""
    path = str(MAIN / "model.nemo")

    def fails(error: RuntimeError) -> None:
        def build(*_: object) -> None:
            raise error

        monkeypatch.setattr(text_model, "build_for_inference", build)

    fails(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nMore."))
    with pytest.raises(UserError) as found:
        load_text_model(path)
    assert str(found.value) == (
        f"no memory for the weights of {path}: split them, tensor_model_parallel_size=2, or precision=bf16 "
        "(CUDA out of memory. Tried to allocate 20.00 MiB.)"
    )
    fails(RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        load_text_model(path)
