"""Every refusal names the key, the value and the fix, in one line."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.config.data_schema import SourceConfig
from recipes.config.hydra_app import compose
from recipes.config.schema import EvaluateConfig, GenerateConfig, PretrainConfig, TableRow
from recipes.config.validate import parse_duration, validate_pretrain
from recipes.config.validate_jobs import MARKS, validate_evaluate, validate_generate
from recipes.errors import UserError
from tests.support.configs import changed, refusal


@pytest.fixture(scope="module")
def planned() -> PretrainConfig:
    """A run that is only described: no file is looked at."""
    return compose("pretrain", ["name=run", "data.seq_length=128", "trainer.max_steps=10", "dry_run=true"])


def test_it_is_accepted(planned: PretrainConfig) -> None:
    assert validate_pretrain(planned) == 1


NAN, INF = float("nan"), float("inf")
SAMPLES = {"trainer__samples__every_n_steps": 5, "trainer__samples__prompts": ["a"]}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": "../x"}, "name='../x': use letters"),
    ({"name": ""}, "name='': use letters"),
    (
        {"trainer__compile": True, "model__num_moe_experts": 4, "model__moe_router_topk": 2},
        "trainer.compile=True: megatron-core's experts cannot be compiled",
    ),
    (
        {
            "parallel__recompute_granularity": "full",
            "parallel__recompute_method": "uniform",
            "parallel__recompute_num_layers": 3,
        },
        "parallel.recompute_num_layers=3: must divide the layers of every stage, [4]",
    ),
    ({"resume": "yes"}, "resume=yes: choose one of auto, never"),
    ({"seed": -1}, "seed=-1: must lie between 0 and 2,147,483,647"),
    ({"seed": 2**31}, "seed=2,147,483,648: must lie between"),
    # The model
    ({"model__family": "lama"}, "model.family=lama: known families: gemma3, llama"),
    ({"model__num_layers": 0}, "model.num_layers=0: must be positive"),
    (
        {"model__num_layers": 10**18},
        "model.num_layers=1,000,000,000,000,000,000: no model has more than 10,000",
    ),
    ({"data__num_workers": 10**9}, "data.num_workers=1,000,000,000: must lie between 0 and 1,024"),
    ({"model__hidden_size": -8}, "model.hidden_size=-8: must be positive"),
    ({"model__ffn_hidden_size": 0}, "model.ffn_hidden_size=0: must be positive"),
    ({"model__num_attention_heads": 0}, "model.num_attention_heads=0: must be positive"),
    ({"model__num_query_groups": 0}, "model.num_query_groups=0: must be positive"),
    ({"model__num_query_groups": -2}, "model.num_query_groups=-2: must be positive"),
    ({"model__kv_channels": -16}, "model.kv_channels=-16: must be positive"),
    ({"model__kv_channels": 0}, "model.kv_channels=0: must be positive"),
    ({"model__kv_channels": 15}, "model.kv_channels=15: rotary embeddings need an even head width"),
    ({"model__vocab_size": 0}, "model.vocab_size=0: must be positive"),
    ({"model__make_vocab_size_divisible_by": 0}, "model.make_vocab_size_divisible_by=0: must be positive"),
    ({"model__max_position_embeddings": 0}, "model.max_position_embeddings=0: must be positive"),
    (
        {"model__num_attention_heads": 5},
        "model.num_attention_heads=5: does not divide model.hidden_size=128; choose",
    ),
    ({"model__num_query_groups": 3}, "model.num_query_groups=3: must divide num_attention_heads=4"),
    ({"model__normalization": "rmsnorm"}, "model.normalization=rmsnorm: choose one of RMSNorm, LayerNorm"),
    ({"model__activation": "relu"}, "model.activation=relu: the llama family needs swiglu or gelu"),
    ({"model__position_embedding_type": "alibi"}, "model.position_embedding_type=alibi: choose one of rope"),
    ({"model__hidden_dropout": 1.0}, "model.hidden_dropout=1.0: must be at least 0 and below 1"),
    ({"model__attention_dropout": -0.1}, "model.attention_dropout=-0.1: must be at least 0"),
    ({"model__attention_dropout": NAN}, "model.attention_dropout=nan: must be at least 0"),
    ({"model__init_method_std": -0.02}, "model.init_method_std=-0.02: must not be negative"),
    ({"model__layernorm_epsilon": 0.0}, "model.layernorm_epsilon=0.0: must be positive"),
    ({"model__rotary_base": 0}, "model.rotary_base=0: must be positive"),
    ({"model__rotary_percent": 1.5}, "model.rotary_percent=1.5: must be above 0 and at most 1"),
    ({"model__megatron": {"num_layers": 3}}, "model.megatron.num_layers=3: set model.num_layers instead"),
    ({"model__megatron": {"bf16": True}}, "model.megatron.bf16=True: set trainer.precision instead"),
    (
        {"model__megatron": {"no_such": 1}},
        "model.megatron.no_such=1: megatron-core's TransformerConfig has no such",
    ),
    (
        {"model__megatron": {"num_moe_experts": 8}},
        "model.megatron.num_moe_experts=8: set model.num_moe_experts",
    ),
    (
        {"model__megatron": {"moe_router_topk": 2}},
        "model.megatron.moe_router_topk=2: set model.moe_router_topk",
    ),
    (
        {"model__megatron": {"qk_layernorm": True}},
        "model.megatron.qk_layernorm=True: set model.qk_layernorm",
    ),
    (
        {"model__position_embedding_type": "learned_absolute", "model__rotary_base": 500_000},
        "model.rotary_base=500,000: would be ignored: position_embedding_type is learned_absolute",
    ),
    (
        {"model__position_embedding_type": "learned_absolute", "model__rotary_percent": 0.5},
        "model.rotary_percent=0.5: would be ignored: position_embedding_type is learned_absolute",
    ),
    (
        {"model__megatron": {"softmax_scale": "0.1"}},
        "model.megatron.softmax_scale=0.1: must be a positive number, or null",
    ),
    ({"model__megatron": {"rotary_interleaved": 1}}, "model.megatron.rotary_interleaved=1: must be true or"),
    (
        {"model__megatron": {"moe_router_topk_limited_devices": 2}},
        "model.megatron.moe_router_topk_limited_devices=2: set model.megatron.moe_router_num_groups and",
    ),
    # The optimizer
    ({"optim__name": "sgd"}, "optim.name=sgd: choose one of adamw"),
    ({"optim__lr": 0.0}, "optim.lr=0.0: must be positive"),
    ({"optim__lr": NAN}, "optim.lr=nan: must be positive"),
    ({"optim__lr": INF}, "optim.lr=inf: must be positive"),
    ({"optim__min_lr": 1.0}, "optim.min_lr=1.0: must lie between 0 and optim.lr=0.001"),
    ({"optim__min_lr": NAN}, "optim.min_lr=nan: must lie between"),
    ({"optim__betas": (0.9, 1.0)}, "optim.betas=[0.9, 1.0]: give two numbers, each at least 0 and below 1"),
    ({"optim__betas": (0.9,)}, "optim.betas=[0.9]: give two numbers"),
    ({"optim__eps": 0.0}, "optim.eps=0.0: must be positive"),
    ({"optim__weight_decay": -0.1}, "optim.weight_decay=-0.1: must not be negative"),
    ({"optim__weight_decay": NAN}, "optim.weight_decay=nan: must not be negative"),
    ({"optim__clip_grad": -1.0}, "optim.clip_grad=-1.0: must not be negative"),
    ({"optim__lr_warmup_steps": -1}, "optim.lr_warmup_steps=-1: must not be negative"),
    (
        {"optim__lr_decay_style": "cosin"},
        "optim.lr_decay_style=cosin: choose one of cosine, linear, WSD, constant",
    ),
    ({"optim__lr_wsd_decay_style": "x"}, "optim.lr_wsd_decay_style=x: choose one of linear, cosine"),
    ({"optim__lr_decay_steps": 0, "optim__lr_warmup_steps": 0}, "optim.lr_decay_steps=0: must be positive"),
    ({"optim__lr_decay_steps": 100}, "optim.lr_warmup_steps=100: must be below lr_decay_steps=100"),
    (
        {"optim__lr_wsd_decay_steps": 5},
        "optim.lr_wsd_decay_steps=5: would be ignored: needs lr_decay_style=WSD",
    ),
    (
        {"optim__lr_decay_style": "WSD", "optim__lr_wsd_decay_steps": 31, "optim__lr_decay_steps": 130},
        "optim.lr_wsd_decay_steps=31: must be at most lr_decay_steps - lr_warmup_steps = 30",
    ),
    # The layout
    ({"parallel__tensor_model_parallel_size": 0}, "parallel.tensor_model_parallel_size=0: must be positive"),
    ({"parallel__world_size": 0}, "parallel.world_size=0: must be positive"),
    ({"parallel__world_size": -4}, "parallel.world_size=-4: must be positive"),
    (
        {"parallel__tensor_model_parallel_size": 3, "parallel__world_size": 3},
        "parallel.tensor_model_parallel_size=3: does not divide model.num_attention_heads=4; choose",
    ),
    (
        {"parallel__tensor_model_parallel_size": 4, "parallel__world_size": 4},
        "parallel.tensor_model_parallel_size=4: does not divide model.num_query_groups=2; choose a divisor",
    ),
    (
        {"parallel__tensor_model_parallel_size": 2, "model__ffn_hidden_size": 385},
        "parallel.tensor_model_parallel_size=2: does not divide model.ffn_hidden_size=385; choose a divisor",
    ),
    (
        {
            "parallel__tensor_model_parallel_size": 2,
            "model__vocab_size": 2047,
            "model__make_vocab_size_divisible_by": 1,
        },
        "parallel.tensor_model_parallel_size=2: does not divide padded vocabulary=2047",
    ),
    (
        {"parallel__pipeline_model_parallel_size": 3, "parallel__world_size": 3},
        "parallel.pipeline_model_parallel_size=3: does not divide model.num_layers=4",
    ),
    (
        {"parallel__expert_model_parallel_size": 2},
        "parallel.expert_model_parallel_size=2: the model has no experts; leave it at 1",
    ),
    (
        {"parallel__sequence_parallel": True},
        "parallel.sequence_parallel=True: needs tensor_model_parallel_size > 1",
    ),
    (
        {"parallel__overlap_param_gather": True},
        "parallel.overlap_param_gather=True: needs parallel.overlap_grad",
    ),
    (
        {"parallel__tensor_model_parallel_size": 2, "parallel__pipeline_model_parallel_size": 2},
        "parallel=tensor 2 x pipeline 2 x context 1: needs a multiple of 4 processes, there are 1; "
        "launch with torchrun --nproc-per-node 4",
    ),
    (
        {"parallel__tensor_model_parallel_size": 2, "parallel__world_size": 3},
        "parallel=tensor 2 x pipeline 1 x context 1: needs a multiple of 2 processes, there are 3",
    ),
    (
        {"parallel__world_size": 8, "dry_run": False},
        "parallel.world_size=8: but 1 process was launched; use",
    ),
    # The trainer
    ({"trainer__precision": "fp64"}, "trainer.precision=fp64: choose one of auto, bf16, fp32, fp16"),
    ({"trainer__micro_batch_size": 0}, "trainer.micro_batch_size=0: must be positive"),
    ({"trainer__global_batch_size": 0}, "trainer.global_batch_size=0: must be positive"),
    (
        {"trainer__global_batch_size": 12, "parallel__world_size": 2},
        "trainer.global_batch_size=12: must be a multiple of micro_batch_size x data-parallel "
        "size = 8 x 2 = 16",
    ),
    ({"trainer__max_steps": None}, "trainer.max_steps=null: set trainer.max_steps or trainer.max_tokens"),
    ({"trainer__max_steps": -1}, "trainer.max_steps=-1: must not be negative"),
    ({"trainer__max_tokens": 0}, "trainer.max_tokens=0: must be positive"),
    (
        {"trainer__max_time": "15m"},
        "trainer.max_time='15m': write DD:HH:MM:SS or HH:MM:SS, for example 00:15:00",
    ),
    ({"trainer__max_time": "00:00:00"}, "trainer.max_time='00:00:00': must be longer than zero"),
    ({"trainer__log_every_n_steps": 0}, "trainer.log_every_n_steps=0: must be positive"),
    ({"trainer__val_check_interval": 0}, "trainer.val_check_interval=0: must be positive"),
    ({"trainer__limit_val_batches": 0}, "trainer.limit_val_batches=0: must be positive"),
    ({"trainer__num_threads": 0}, "trainer.num_threads=0: must lie between 1 and 1,024"),
    ({"trainer__peak_tflops": 0.0}, "trainer.peak_tflops=0.0: must be positive"),
    ({"trainer__checkpoint__every_n_steps": 0}, "trainer.checkpoint.every_n_steps=0: must be positive"),
    (
        {"trainer__ema__validate": False},
        "trainer.ema.validate=False: would be ignored: set trainer.ema.decay",
    ),
    (
        {"trainer__ema__every_n_steps": 2},
        "trainer.ema.every_n_steps=2: would be ignored: set trainer.ema.decay",
    ),
    ({"trainer__checkpoint__keep_last": 0}, "trainer.checkpoint.keep_last=0: must be positive"),
    ({"trainer__samples__prompts": ["a"]}, "trainer.samples.prompts=['a']: would be ignored: set trainer"),
    ({"trainer__samples__every_n_steps": 5}, "trainer.samples.prompts=[]: give at least one"),
    ({**SAMPLES, "trainer__samples__prompts": ["a", ""]}, "trainer.samples.prompts=['a', '']: give at least"),
    ({**SAMPLES, "trainer__samples__every_n_steps": 0}, "trainer.samples.every_n_steps=0: must be positive"),
    ({**SAMPLES, "trainer__samples__inference__top_p": 2.0}, "trainer.samples.inference.top_p=2.0: must lie"),
    (
        {**SAMPLES, "trainer__samples__inference__compute_logprob": True},
        "trainer.samples.inference.compute_logprob=True: scores prompts; samples continue them",
    ),
    (
        {**SAMPLES, "parallel__context_parallel_size": 2, "parallel__world_size": 2},
        "trainer.samples.every_n_steps=5: does not go with parallel.context_parallel_size=2",
    ),
    # The data, as far as no file is needed
    ({"data__seq_length": 0}, "data.seq_length=0: must be positive"),
    (
        {"data__seq_length": 257},
        "data.seq_length=257: longer than model.max_position_embeddings=256; lower it",
    ),
    (
        {
            "data__seq_length": 127,
            "parallel__sequence_parallel": True,
            "parallel__tensor_model_parallel_size": 2,
            "parallel__world_size": 2,
        },
        "data.seq_length=127: sequence_parallel needs a multiple of 2",
    ),
    ({"data__num_workers": -1}, "data.num_workers=-1: must lie between 0 and 1,024"),
    ({"data__train": {"en": SourceConfig("en", -1.0)}}, "data.train.en.weight=-1.0: must not be negative"),
    ({"data__train": {"en": SourceConfig("en", NAN)}}, "data.train.en.weight=nan: must not be negative"),
    ({"data__train": {"en": SourceConfig("en", INF)}}, "data.train.en.weight=inf: must not be negative"),
    (
        {"data__train": {"en": SourceConfig("en", 0.0)}},
        "data.train: every weight is 0; give at least one source",
    ),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[message[:60] for _, message in REFUSED])
def test_refused(planned: PretrainConfig, values: dict[str, Any], message: str) -> None:
    assert refusal(changed(planned, **values)).startswith(message)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["parallel=pp2", "parallel.world_size=2"],
            "parallel.pipeline_model_parallel_size=2: nano_hindi: every layer needs the embedding and the "
            "token ids, which a later stage does not have; leave it at 1",
        ),
        (
            ["model.hidden_size=24"],
            "model.hidden_size=24: value gates read 32 channels; choose at least as many",
        ),
        (
            ["model.megatron={hetereogenous_dist_checkpoint:false}"],
            "model.megatron.hetereogenous_dist_checkpoint=False: set nothing (it is on in the nano_hindi "
            "family) instead",
        ),
    ],
)
def test_refused_by_the_nano_hindi_family(overrides: list[str], message: str) -> None:
    settings = ["name=run", "model=tiny_nano_hindi", "data.seq_length=128", "trainer.max_steps=10"]
    assert refusal(compose("pretrain", [*settings, "dry_run=true", *overrides])).startswith(message)


ACCEPTED: list[dict[str, Any]] = [
    {"model__megatron": {"softmax_scale": 0.125}},
    {"model__position_embedding_type": "learned_absolute"},
    {"model__kv_channels": 64, "model__num_attention_heads": 6, "model__num_query_groups": 3},
    {
        "parallel__tensor_model_parallel_size": 2,
        "parallel__pipeline_model_parallel_size": 2,
        "parallel__world_size": 8,
        "trainer__global_batch_size": 16,
    },
    {"trainer__max_steps": 0},
    {"trainer__max_steps": None, "trainer__max_tokens": 1},
    {"optim__lr_decay_style": "WSD", "optim__lr_wsd_decay_steps": 30, "optim__lr_decay_steps": 130},
    {"data__train": {"en": SourceConfig("en", 1e-6), "hi": SourceConfig("hi", 0.0)}},
]


@pytest.mark.parametrize("values", ACCEPTED)
def test_accepted(planned: PretrainConfig, values: dict[str, Any]) -> None:
    config = changed(planned, **values)
    parallel = config.parallel
    stages = parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size
    assert validate_pretrain(config) == (parallel.world_size or 1) // stages


def test_launched_processes_count(planned: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "6"}.items():
        monkeypatch.setenv(name, value)
    assert refusal(
        changed(planned, parallel__tensor_model_parallel_size=4, model__num_query_groups=4)
    ).startswith("parallel=tensor 4 x pipeline 1 x context 1: needs a multiple of 4 processes, there are 6")
    assert validate_pretrain(changed(planned, trainer__global_batch_size=48)) == 6


@pytest.fixture
def model_file(tmp_path: Path) -> str:
    tarfile.open(tmp_path / "model.nemo", "w").close()
    return str(tmp_path / "model.nemo")


GENERATE_REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"gpt_model_file": "no.nemo"}, "gpt_model_file=no.nemo: no such file; give a .nemo file"),
    ({"precision": "int8"}, "precision=int8: choose one of"),
    ({"batch_size": 0}, "batch_size=0: must be positive"),
    ({"num_threads": 10**30}, f"num_threads={10**30:,}: must lie between 1 and 1,024"),
    ({"prompts": []}, "prompts: give either prompts or prompts_jsonl"),
    ({"prompts_jsonl": "p.jsonl"}, "prompts: give either prompts or prompts_jsonl"),
    ({"prompts": [], "prompts_jsonl": "p.jsonl"}, "prompts_jsonl=p.jsonl: no such file"),
    ({"output_jsonl": "o.jsonl"}, "output_jsonl=o.jsonl: would be ignored: it goes with prompts_jsonl"),
    (
        {"inference__temperature": 0.0},
        "inference.temperature=0.0: must lie between 0.001 and 1000.0; for the likeliest token use "
        "inference.greedy=true",
    ),
    ({"inference__temperature": NAN}, "inference.temperature=nan: must lie between"),
    ({"inference__temperature": 1e-300}, "inference.temperature=1e-300: must lie between"),
    ({"inference__temperature": 1e300}, "inference.temperature=1e+300: must lie between"),
    ({"inference__temperature": INF}, "inference.temperature=inf: must lie between"),
    ({"inference__end_strings": ["a", ""]}, "inference.end_strings=['a', '']: an empty text ends everything"),
    ({"seed": -1}, "seed=-1: must lie between 0 and 9,223,372,036,854,775,807"),
    ({"seed": 2**64}, "seed=18,446,744,073,709,551,616: must lie between 0 and"),
    ({"inference__top_k": -1}, "inference.top_k=-1: must not be negative; 0 turns it off"),
    ({"inference__top_p": 1.1}, "inference.top_p=1.1: must lie between 0 and 1; 0 turns it off"),
    ({"inference__repetition_penalty": 0.9}, "inference.repetition_penalty=0.9: must be at least 1"),
    ({"inference__tokens_to_generate": 0}, "inference.tokens_to_generate=0: must be positive"),
    (
        {"inference__min_tokens_to_generate": 31},
        "inference.min_tokens_to_generate=31: must lie between 0 and",
    ),
]


@pytest.mark.parametrize(
    ("values", "message"), GENERATE_REFUSED, ids=[text[:50] for _, text in GENERATE_REFUSED]
)
def test_generate_refused(model_file: str, values: dict[str, Any], message: str) -> None:
    config = GenerateConfig(gpt_model_file=model_file, prompts=["x"])
    validate_generate(config)
    assert refusal(changed(config, **values), validate_generate).startswith(message)


ROW = TableRow("X", "x", "acc_norm,none")
EVALUATE_REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"gpt_model_file": "no.nemo"}, "gpt_model_file=no.nemo: no such file"),
    ({"precision": "int8"}, "precision=int8: choose one of"),
    ({"tasks": []}, "tasks=[]: nothing to evaluate; choose eval=minibench or"),
    ({"minibench": "nowhere"}, "minibench=nowhere: no such directory"),
    ({"mirror": "nowhere"}, "mirror=nowhere: no such directory"),
    ({"tasks": ["minibench_en"]}, "minibench=null: name the generated benchmark's directory"),
    ({"limit": 0}, "limit=0: must be positive"),
    ({"num_threads": 10**30}, f"num_threads={10**30:,}: must lie between 1 and 1,024"),
    ({"num_fewshot": -1}, "num_fewshot=-1: must not be negative"),
    ({"bootstrap_iters": -1}, "bootstrap_iters=-1: must not be negative"),
    ({"max_batch_tokens": 0}, "max_batch_tokens=0: must be positive"),
    ({"max_logits_bytes": 0}, "max_logits_bytes=0: must be positive"),
    ({"tensor_model_parallel_size": 0}, "tensor_model_parallel_size=0: must be positive"),
    (
        {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2},
        "tensor_model_parallel_size=2, pipeline_model_parallel_size=2: they need a multiple of 4 processes, "
        "there are 1; launch with torchrun --nproc-per-node 4",
    ),
    ({"check": "no.yaml"}, "check=no.yaml: no such file"),
    ({"check": __file__, "rows": [ROW], "bootstrap_iters": 0}, "bootstrap_iters=0: check needs standard"),
    ({"check_column": "a"}, "check_column=a: would be ignored: it belongs to check=FILE"),
    ({"columns": ["a"]}, "columns=['a']: would be ignored: they belong to rows; set rows, or columns=[]"),
    ({"rows": [ROW, TableRow("X", " ", "acc,none")]}, "rows[1].task=' ': is empty; every row needs one"),
    ({"rows": [TableRow("", "x", "acc,none")]}, "rows[0].name='': is empty"),
    ({"rows": [TableRow("X", "x", "")]}, "rows[0].metric='': is empty"),
    ({"rows": [TableRow("X", "x", "acc")]}, "rows[0].metric=acc: give lm-eval's full name, acc,none"),
    ({"rows": [TableRow("X", "x", "acc,")]}, "rows[0].metric=acc,: give lm-eval's full name, acc,none"),
    ({"rows": [TableRow("X", "x", "a,b,c")]}, "rows[0].metric=a,b,c: give lm-eval's full name"),
    (
        {"rows": [TableRow("X", "x", "acc,none", [1.0])], "columns": ["a", "b"]},
        "rows[0].published=[1.0]: must have a figure for each of the 2 columns, or none at all",
    ),
]


@pytest.mark.parametrize(
    ("values", "message"), EVALUATE_REFUSED, ids=[text[:50] for _, text in EVALUATE_REFUSED]
)
def test_evaluate_refused(model_file: str, values: dict[str, Any], message: str) -> None:
    config = EvaluateConfig(gpt_model_file=model_file, tasks=["hellaswag_hi"])
    validate_evaluate(config)
    validate_evaluate(changed(config, rows=[ROW], columns=["a", "b"]))
    assert refusal(changed(config, **values), validate_evaluate).startswith(message)


@pytest.mark.parametrize("mark", MARKS)
def test_directories_with_a_model(mark: str, tmp_path: Path) -> None:
    """What recipes/checkpoint/open.py reads is not refused before it is asked."""
    config = GenerateConfig(gpt_model_file=str(tmp_path), prompts=["x"])
    assert "holds no model: none of model_config.yaml" in refusal(config, validate_generate)
    (tmp_path / mark).parent.mkdir(exist_ok=True)
    (tmp_path / mark).write_text("")
    validate_generate(config)
    evaluated = EvaluateConfig(gpt_model_file=str(tmp_path), tasks=["hellaswag_hi"])
    validate_evaluate(evaluated)


@given(
    days=st.none() | st.integers(0, 400),
    hours=st.integers(0, 99),
    minutes=st.integers(0, 59),
    seconds=st.integers(0, 59),
)
def test_duration(days: int | None, hours: int, minutes: int, seconds: int) -> None:
    text = (
        f"{hours:02}:{minutes:02}:{seconds:02}"
        if days is None
        else f"{days}:{hours:02}:{minutes:02}:{seconds:02}"
    )
    expected = ((days or 0) * 24 + hours) * 3600 + minutes * 60 + seconds
    if expected:
        assert parse_duration(text) == expected
    else:
        with pytest.raises(UserError, match="longer than zero"):
            parse_duration(text)


@given(st.text(max_size=12))
def test_anything_else_is_no_duration(text: str) -> None:
    try:
        assert parse_duration(text) > 0
        assert text.count(":") in (2, 3) and all(part.isdecimal() for part in text.split(":"))
    except UserError as error:
        assert str(error).startswith("trainer.max_time=")
