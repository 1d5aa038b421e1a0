"""Every response on the 15 stock tasks of the published table equals that of lm-eval's own HFLM."""

from typing import Any

import datasets
import pytest
import torch
import yaml
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM

from recipes.evaluation.lm import ParamLM
from recipes.evaluation.tasks import load_tasks
from tests.support.paths import ROOT
from tests.support.tiny_text_model import (
    LlamaTextModel,
    build_mirror,
    mmlu_subjects,
    random_llama,
    train_tokenizer,
)

TABLE = ROOT / "conf" / "eval" / "param1_table.yaml"
TASKS = yaml.safe_load(TABLE.read_text(encoding="utf-8"))["tasks"]

Responses = dict[tuple[str, int], Any]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def responses(tmp_path_factory: pytest.TempPathFactory) -> tuple[Responses, Responses, dict[str, Any]]:
    """What ParamLM and HFLM answer to each request, and the metrics of both."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("parity")
    tokenizer = train_tokenizer()
    # Answers and stop strings that a random model would hardly ever hit upon by itself.
    loud = {tokenizer.eos_token_id, *tokenizer.encode(" A B C D.\n,")}
    llama = random_llama(len(tokenizer), loud=sorted(loud))
    param_lm = ParamLM(LlamaTextModel(llama, tokenizer), max_batch_tokens=2048)
    hflm = HFLM(pretrained=llama, tokenizer=tokenizer, batch_size=16, device="cpu", max_length=512)
    answers, metrics = [], {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        loaded = load_tasks(TASKS, mirror=build_mirror(folder / "mirror", mmlu_subjects()))
        for lm in (param_lm, hflm):
            report = evaluator.evaluate(lm, loaded, bootstrap_iters=0)
            metrics[type(lm).__name__] = report["results"]
            answers.append(
                {
                    (task, i): sample["resps"]
                    for task, samples in report["samples"].items()
                    for i, sample in enumerate(samples)
                }
            )
    return answers[0], answers[1], metrics


def scored(answers: Responses) -> list[tuple[float, bool]]:
    return [response for response in every(answers) if not isinstance(response, str)]


def generated(answers: Responses) -> list[str]:
    return [response for response in every(answers) if isinstance(response, str)]


def every(answers: Responses) -> list[Any]:
    return [response for responses in answers.values() for (response,) in responses]


def test_the_15_rows_were_all_run(responses: tuple[Responses, Responses, dict[str, Any]]) -> None:
    ours, hflm, metrics = responses
    assert len(TASKS) == 15 and set(TASKS) <= set(metrics["ParamLM"])
    assert len({task for task, _ in ours}) == 14 + 57  # mmlu is 57 tasks
    assert ours.keys() == hflm.keys()


def test_log_probabilities_and_greediness_are_those_of_hflm(
    responses: tuple[Responses, Responses, dict[str, Any]],
) -> None:
    ours, hflm, _ = responses
    pairs = list(zip(scored(ours), scored(hflm), strict=True))
    assert len(pairs) > 500
    assert max(abs(a[0] - b[0]) for a, b in pairs) < 1e-4
    assert [a[1] for a, _ in pairs] == [b[1] for _, b in pairs]
    assert any(a[1] for a, _ in pairs)


def test_choices_are_those_of_hflm(responses: tuple[Responses, Responses, dict[str, Any]]) -> None:
    ours, hflm, metrics = responses
    for key in ours:
        if len(ours[key]) > 1:
            best = [max(range(len(rs)), key=lambda i, rs=rs: rs[i][0][0]) for rs in (ours[key], hflm[key])]
            assert best[0] == best[1], key
    for task, reported in metrics["ParamLM"].items():
        for metric, value in reported.items():
            assert value == pytest.approx(metrics["HFLM"][task][metric], abs=1e-6), (task, metric)


def test_generated_texts_are_those_of_hflm(responses: tuple[Responses, Responses, dict[str, Any]]) -> None:
    ours, hflm, _ = responses
    assert generated(ours) == generated(hflm)
    assert len(set(generated(ours))) > 2
