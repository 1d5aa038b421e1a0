"""What nemo_inference.sh takes for a prompt, for a setting and for NeMo's own settings."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from recipes.config.hydra_app import compose
from recipes.config.script_arguments import as_settings
from recipes.errors import UserError
from tests.support.paths import ROOT

SENTENCES = [
    "भारत में",
    "key=value [a,b] {c:d} # e",
    'it\'s "quoted" \\',
    "${HOME} $(x) \\${y}",
    "two\nlines",
    "-n",
    "a = b",
    "x == y",
    "",
]


def composed(*written: str) -> object:
    return compose("generate", ["gpt_model_file=x", *as_settings(written)])


def test_sentences_are_prompts() -> None:
    assert composed(*SENTENCES).prompts == SENTENCES  # type: ignore[attr-defined]


def test_settings_are_settings_wherever_they_stand() -> None:
    config = composed("inference.top_k=3", "A", "precision=fp32", "inference.end_strings=[x y]", "B = C")
    assert (config.prompts, config.precision) == (["A", "B = C"], "fp32")  # type: ignore[attr-defined]
    assert (config.inference.top_k, config.inference.end_strings) == (3, ["x y"])  # type: ignore[attr-defined]


def test_after_two_dashes_everything_is_a_prompt() -> None:
    words = ["precision=fp32", "--", "x=1", "--top-k"]
    assert composed("--", *words).prompts == words  # type: ignore[attr-defined]


def test_an_options_value_is_not_a_prompt() -> None:
    with pytest.raises(UserError, match=r"--top-k: settings are written without dashes: inference.top_k=5"):
        as_settings(["A", "--top-k", "5"])


def test_nemos_own_command_line() -> None:
    written = [
        *(
            "trainer.devices=1",
            "trainer.num_nodes=1",
            "trainer.accelerator=gpu",
            "trainer.precision=bf16-mixed",
        ),
        *("checkpoint_dir=null", "hparams_file=null", "tensor_model_parallel_size=-1"),
        *("pipeline_model_parallel_size=-1", "inference.greedy=True", "inference.add_BOS=True"),
        *("inference.tokens_to_generate=20", "inference.all_probs=False", "inference.compute_logprob=False"),
        *("inference.repetition_penalty=1.2", "inference.min_tokens_to_generate=0", "prompts=[A, B]"),
        "inference.end_strings=['<|endoftext|>']",
        *("micro_batch_size=-1", "expert_model_parallel_size=-1", "pipeline_model_parallel_split_rank=-1"),
        *("web_server=False", "share=False", "username=test", "password=test2", "web_port=9889"),
        *("chatbot_config.value=False", "chatbot_config.user=User", "trainer.use_distributed_sampler=False"),
        *("trainer.logger=False", "megatron_amp_O2=False", "checkpoint_name=null", "chat=False"),
        *(
            "server=False",
            "port=5555",
            "inference.top_k=0",
            "inference.top_p=0.9",
            "inference.temperature=1.0",
        ),
    ]
    config = composed(*written)
    assert config.prompts == ["A", "B"] and config.precision == "bf16"  # type: ignore[attr-defined]
    assert config.tensor_model_parallel_size == -1 and config.inference.greedy  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            "gredy=true",
            "gredy=true: no setting is called gredy; to complete it as a prompt, write -- before it",
        ),
        (
            "greedy=true",
            "greedy=true: no setting is called greedy, but inference.greedy is; to complete it as",
        ),
        ("x=1", "x=1: no setting is called x"),
        ("inference.gredy=true", "did you mean inference.greedy?"),
        (
            "trainer.devices=2",
            "trainer.devices=2: tensor_model_parallel_size=1, pipeline_model_parallel_size=1 say how many "
            "processes are started, which are 1; change those",
        ),
        ("trainer.devices=[0]", "here it is tensor_model_parallel_size"),
        ("trainer.num_nodes=2", "start recipes.generate with torchrun or srun"),
        ("expert_model_parallel_size=2", "here it is tensor_model_parallel_size: its processes share the"),
        ("max_new_tokens=2", "here it is inference.tokens_to_generate: New tokens, see count_from; to compl"),
        ("checkpoint_dir=/a", "gpt_model_file"),
        ("trainer.precision=16", "trainer.precision=16: completion computes in bf16 or fp32; write one"),
        ("username=me", "username: there is no such key"),
        ("--temperature=0.5", "settings are written without dashes: inference.temperature=0.5"),
        ("--batch-size", "--batch-size: settings are written without dashes: batch_size=..."),
        ("--gredy", "--gredy: settings are key=value, without dashes; gredy: there is no such key"),
    ],
)
def test_mistakes_are_not_completed(written: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        composed(written)
    assert message in str(caught.value)


def test_nemos_devices_are_those_of_the_layout(capsys: pytest.CaptureFixture[str]) -> None:
    """NeMo wants to be told both; a command that says what happens can be pasted."""
    both = ["tensor_model_parallel_size=2", "pipeline_model_parallel_size=2"]
    nemos = ["expert_model_parallel_size=1", "megatron_amp_O2=True", "pipeline_model_parallel_split_rank=0"]
    config = composed("A", "trainer.devices=4", *both, *nemos)
    assert config.tensor_model_parallel_size == 2 and config.prompts == ["A"]  # type: ignore[attr-defined]
    assert capsys.readouterr().err == ""
    composed("trainer.devices=2", both[0], "--", both[1])  # The last word is a prompt.
    with pytest.raises(UserError, match=r"which are 4; change those, and leave trainer\.devices out"):
        composed("trainer.devices=1", *both)
    composed("trainer.devices=2", "tensor_model_parallel_size=-1")
    assert capsys.readouterr().err == (
        "warning: trainer.devices=2: as many processes are started as the model's file says\n"
    )


def test_prompts_in_two_ways_are_refused() -> None:
    with pytest.raises(UserError, match=r"prompts=\[B\]: prompts are given as words, too \('A' ...\)"):
        as_settings(["A", "prompts=[B]"])


def test_the_accelerator_that_nemo_is_told() -> None:
    """In a process, as it decides what torch sees."""
    program = "import os, sys; from recipes.config import script_arguments as s\n"
    program += "s.has_gpu = lambda: False; s._choose_accelerator(sys.argv[1:])\n"
    program += "print(os.environ.get('CUDA_VISIBLE_DEVICES'))"
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    said = {}
    for kind in ("cpu", "gpu", "auto"):
        command = [sys.executable, "-c", program, f"trainer.accelerator={kind}"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        said[kind] = (done.stdout.strip(), done.stderr.strip())
    assert said["cpu"] == ("", "") and said["auto"] == ("None", "")
    assert said["gpu"] == ("None", "warning: trainer.accelerator=gpu: there is no GPU here; the CPU computes")
