"""Every setting of a run, typed, with what it means. No torch here: `--help` and refusals answer at once.

The names are megatron-core's and NeMo's. A value that is ``MISSING`` must come from a YAML file or the
command line; ``None`` means "not set", and the comment says what happens then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from omegaconf import MISSING

from recipes.bounds import AtMost, Batch, Bytes, Processes, Tokens
from recipes.config.data_schema import DataConfig
from recipes.config.evaluation_schema import EvaluationConfig, TableRow, TextsConfig
from recipes.config.optim_schema import OptimConfig
from recipes.config.phase_schema import PhaseConfig
from recipes.config.serving_schema import ServingConfig
from recipes.config.trainer_schema import (
    CheckpointConfig,
    EmaConfig,
    Fp16Config,
    GuardsConfig,
    WandbConfig,
)
from recipes.families.model_config import ModelConfig


@dataclass(frozen=True)
class TokenizerConfig:
    """How text and tokens belong together."""

    model: str | None = None
    """What tools.train_tokenizer made, any SentencePiece model or any Hugging Face directory with a
    tokenizer.json. Training needs one."""


@dataclass(frozen=True)
class ParallelConfig:
    """Processes beyond tensor, pipeline and context parallelism are used for data parallelism.

    Optimizer state is sharded over the data-parallel ranks (ZeRO-1, megatron-core's distributed optimizer).
    """

    tensor_model_parallel_size: Processes = 1
    """Every layer's matrices are split over this many ranks."""
    pipeline_model_parallel_size: Processes = 1
    """The layers are split into this many stages, one after the other."""
    num_layers_in_first_pipeline_stage: int | None = None
    """None: as many as the other stages."""
    num_layers_in_last_pipeline_stage: int | None = None
    """None: as many as the other stages."""
    context_parallel_size: Processes = 1
    """Every sequence is split over this many ranks."""
    expert_model_parallel_size: Processes = 1
    """Experts are split over this many of the data-parallel ranks."""
    expert_tensor_parallel_size: Processes | None = None
    """Tensor parallelism inside the experts; None: tensor_model_parallel_size."""
    sequence_parallel: bool = False
    """Shard norms and dropout along the sequence too; needs tensor_model_parallel_size > 1."""
    recompute_granularity: str | None = None
    """full or selective: which activations the backward pass recomputes instead of keeping them."""
    recompute_method: str | None = None
    """full: uniform (in chunks of recompute_num_layers) or block (a stage's first recompute_num_layers)."""
    recompute_num_layers: int | None = None
    """Needed with recompute_granularity=full; see recompute_method."""
    recompute_modules: list[str] = field(default_factory=list)
    """selective: core_attn, mlp, moe, moe_act, layernorm, shared_experts; empty: core_attn. moe_act and
    layernorm need Transformer Engine."""
    overlap_grad_reduce: bool = False
    """Reduce gradients during the backward pass."""
    overlap_param_gather: bool = False
    """Gather updated parameters during the next forward pass; needs overlap_grad_reduce."""
    world_size: Processes | None = None
    """Processes the run is planned for. None: what the launcher (torchrun, Slurm) started."""
    rendezvous_timeout_s: float = 1800.0
    """Seconds in which all processes must find each other; otherwise the run ends and lists the missing."""


@dataclass(frozen=True)
class InferenceConfig:
    """Sampling, spelled and meant as in NeMo's megatron_gpt_inference.yaml."""

    greedy: bool = False
    """Always the most likely token; temperature, top_k, top_p, min_p and, in NeMo's style, repetition_penalty
    are then ignored."""
    top_k: int = 0
    """0: no limit."""
    top_p: float = 0.9
    """Only the likeliest tokens that together have this probability are drawn; 0: no limit."""
    min_p: float = 0.0
    """Only tokens with at least this share of the likeliest one's probability are drawn; 0: no limit."""
    temperature: float = 1.0
    """Logits are divided by it: below 1 likely tokens become likelier."""
    add_BOS: bool | None = None
    """Put BOS before the prompt. None: what documents started with in training, as the model file records it:
    BOS, EOS or nothing. For a Hugging Face directory that is bos_token_id; for NeMo's own files it is NeMo's
    default, true."""
    tokens_to_generate: int = 30
    """New tokens, see count_from."""
    count_from: str = "longest"
    """What tokens_to_generate is counted from. longest: the longest prompt of a batch, as in NeMo, so
    shorter ones get more; each: the prompt itself."""
    repetition_penalty: float = 1.2
    """Divides the logits of tokens seen so far, prompt included; 1: none."""
    repetition_penalty_style: str = "nemo"
    """nemo: negative logits are divided too, which makes their tokens likelier, and greedy ignores the
    penalty. ctrl: negative ones are multiplied, as in the paper, and greedy choices count it."""
    logit_bias: Any = field(default_factory=dict)
    """Added to logits before all else, from -100 (never) to 100, by token: a number is an id, text is a token
    as the model writes it, or as people do: {1234: -100, " the": 1.5}."""
    min_tokens_to_generate: int = 0
    """Before so many tokens, the end of the text is never drawn."""
    compute_logprob: bool = False
    """Score the prompts instead of continuing them."""
    all_probs: bool = False
    """With json or prompts_jsonl: also give each token's log-probability (logprob) and those of the whole
    vocabulary at its place (full_logprob), prompt included."""
    end_strings: list[str] = field(default_factory=lambda: ["<|endoftext|>"])
    """A completion ends where it contains one of these; <|endoftext|> is the model's end token, whatever that
    is called."""
    keep_end_strings: bool = True
    """Leave the end string in the text, as NeMo does; false: cut it off."""


@dataclass(frozen=True)
class SamplesConfig:
    """Completions that a run prints and records during training, as the loss alone says little about text."""

    every_n_steps: int | None = None
    """None: no samples."""
    prompts: list[str] = field(default_factory=list)
    """What is completed."""
    inference: InferenceConfig = field(default_factory=InferenceConfig)


@dataclass(frozen=True)
class TrainerConfig:
    """Length, batches, precision, intervals."""

    max_steps: int | None = None
    """Optimizer steps of the whole run. At least one of max_steps, max_tokens must be set."""
    max_tokens: Tokens | None = None
    """Tokens of the whole run; the first limit that is reached ends it."""
    max_time: str | None = None
    """DD:HH:MM:SS or HH:MM:SS of training in this process; then it saves and stops as on a signal: exit
    code 3, no model.nemo yet. The same command continues the run."""
    global_batch_size: Batch = MISSING
    """Samples per optimizer step, over all data-parallel ranks."""
    micro_batch_size: Batch = MISSING
    """Samples per forward pass of one rank."""
    precision: str = "auto"
    """auto (bf16 on CUDA, fp32 on the CPU), bf16, fp32, fp16 with a dynamic loss scale, or fp8: as bf16, with
    the layers' products in FP8, which need Transformer Engine and a GPU of compute capability 8.9 or more.
    Main weights and the optimizer's state are always fp32."""
    fp16: Fp16Config = field(default_factory=Fp16Config)
    grad_reduce_in_fp32: bool = True
    """Add up gradients, over micro-batches and over ranks, in fp32. false: in the weights' 16 bits, which
    halves their memory and what is sent, and rounds every sum."""
    deterministic: bool = False
    """Two runs with the same settings and layout give the same numbers to the bit, on a GPU too, where it
    costs speed. The first step's gradients are computed twice and compared; if they differ the run is
    refused."""
    fp8_recipe: str = "delayed"
    """How tensors are scaled to FP8 (megatron-core's fp8_recipe, with fp8=hybrid: E4M3 in the forward pass,
    E5M2 in the backward pass): delayed, tensorwise, blockwise (Hopper) or mxfp8 (Blackwell)."""
    log_every_n_steps: int = 10
    """Every this many steps, one line on the screen and one in metrics.jsonl."""
    log_details_every_n_steps: int | None = None
    """Every this many steps, a multiple of log_every_n_steps, also norms of gradients and weights and the
    size of the update by group of parameters, and each expert's share of the tokens. During such a step this
    takes 4 bytes of memory for each weight that a rank's optimizer owns. None: never."""
    val_check_interval: int | None = None
    """Validate every this many steps; None: only at the end."""
    limit_val_batches: int | None = None
    """Global batches per held-out set; None: all of it."""
    num_threads: int | None = None
    """torch CPU threads per process; None: OMP_NUM_THREADS, else the cores divided among local processes."""
    peak_tflops: float | None = None
    """Dense peak of one device, for MFU; None: that of a known GPU (plan.device); no MFU on others."""
    compile: bool | str = "auto"
    """torch.compile the transformer layers: slow to start, faster after that. auto: on a GPU without
    Transformer Engine, unless layers have experts or tensors or sequences are split over ranks."""
    cuda_graph: bool | str = "auto"
    """Record a step's kernels once as CUDA graphs and replay them, for models that are too small to keep a
    GPU busy otherwise. auto: on a GPU, if a micro-batch takes at most 10^13 floating-point operations and the
    step can be recorded: without experts, dropout, recomputation, overlap_grad_reduce, Transformer Engine,
    and without tensor, pipeline or context parallelism."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    guards: GuardsConfig = field(default_factory=GuardsConfig)


@dataclass(frozen=True)
class PlanConfig:
    """What dry_run assumes, and what happens to a run that memory is too small for."""

    device: str | None = None
    """What dry_run plans for: cpu, h200, h100, a100_80gb, a100_40gb, l40s, rtx4090 or rtx3090; None: this
    machine's GPU, else its CPU, or an h100 if parallel.world_size is not what was launched."""
    mfu: float | None = None
    """Model FLOPs utilisation that the planned time assumes; None: 0.4. On a CPU the time assumes 20 GFLOP/s
    per core instead, unless trainer.peak_tflops is set."""
    memory_check: str = "refuse"
    """What training does before it builds a model that needs over 1.1 times the free memory: refuse, or
    warn if the estimate is wrong. Between 0.9 and 1.1 times it warns."""
    page: str | None = None
    """dry_run: also write this HTML file, with learning rate, batches and blend as curves over tokens. None:
    a dry run writes nothing."""


@dataclass(frozen=True)
class PretrainConfig:
    """Everything about one pretraining run."""

    name: str = MISSING
    """The run's name: its directory is <output_dir>/<name>."""
    output_dir: str = "outputs"
    """Where the directories of runs are."""
    data_dir: str = "data"
    """Where prepared text is; YAML files refer to it as ${data_dir}."""
    seed: Annotated[int, AtMost(2**31 - 1)] = 1234
    """Decides initial weights, dropout and the order of samples."""
    resume: str = "auto"
    """auto: continue from the newest whole checkpoint of the run directory, if there is one; never: refuse a
    run directory that holds checkpoints."""
    init_from: str | None = None
    """What a new run starts from instead of random weights: the directory of a run (its newest whole
    checkpoint), one of its checkpoints, or a .nemo file. Has no effect on a run that is resumed."""
    init_from_state: str = "weights"
    """weights, or full: the optimizer's state too. Steps, schedule and data start afresh in both cases."""
    logger: list[str] = field(default_factory=list)
    """tensorboard, wandb: where the figures of metrics.jsonl go as well; empty: nowhere."""
    save_nemo: bool = True
    """Write <run directory>/model.nemo when the run is complete."""
    dry_run: bool = False
    """Print what would be trained and stop."""
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    phases: list[PhaseConfig] = field(default_factory=list)
    """Parts of the run that follow one another, each with its own blend, batches, lengths or learning rate;
    empty: the whole run is as the other settings say."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)


@dataclass(frozen=True)
class GenerateConfig:
    """Completion of prompts with a trained model."""

    gpt_model_file: str = MISSING
    """A .nemo file or the directory it was extracted to, a NeMo 2 or Hugging Face directory, or a run."""
    weights: str = "trained"
    """ema: of a training checkpoint, the average of its weights (trainer.ema) instead of them."""
    prompts: list[str] = field(default_factory=list)
    """Texts to complete."""
    prompts_jsonl: str | None = None
    """A file of {"text": prompt} lines; completions are written beside it, see output_jsonl."""
    output_jsonl: str | None = None
    """Where completions of prompts_jsonl go; None: <prompts_jsonl>.completions.jsonl."""
    batch_size: Batch = 8
    """Prompts that are completed together."""
    seed: Annotated[int, AtMost(2**63 - 1)] = 1234
    """Decides what is drawn."""
    precision: str = "auto"
    """auto (bf16 on CUDA, fp32 on the CPU), bf16 or fp32."""
    num_threads: int | None = None
    """torch CPU threads; None: OMP_NUM_THREADS, else one per core."""
    json: bool = False
    """Print one JSON object per prompt instead of text."""
    stream: bool | None = None
    """Print text as it comes; None: where there is one prompt and a terminal."""
    interactive: bool = False
    """Read prompts from the terminal, one after the other; /help lists what else can be typed."""
    chat: bool = False
    """Prompts are what a user says in a chat: the model answers by the chat template that is stored with it.
    interactive: every line is the next turn."""
    history_file: str | None = None
    """interactive: where typed lines are kept; None: param-recipes/history in the XDG state directory."""
    tensor_model_parallel_size: Processes = 1
    """Split every layer over this many processes, which are started if they are not there; -1: over as many
    as the file names, which for NeMo's is how it was trained, and for this project's 1."""
    pipeline_model_parallel_size: Processes = 1
    """Split the layers into this many stages; -1: as the file says."""
    server: bool = False
    """Answer requests over HTTP instead of completing prompts: OpenAI's API and NeMo's PUT /generate."""
    port: int = 5555
    """Where the server listens; 0: at any free port."""
    serving: ServingConfig = field(default_factory=ServingConfig)
    dry_run: bool = False
    """Check the settings and the model file, print what would run, and stop."""
    inference: InferenceConfig = field(default_factory=InferenceConfig)


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation with lm-eval."""

    gpt_model_file: str = ""
    """A .nemo file or the directory it was extracted to, a NeMo 2 or Hugging Face directory, or a run, of
    which its newest checkpoint is meant; needed, unless run is set."""
    weights: str = "trained"
    """ema: of training checkpoints, the average of their weights (trainer.ema) instead of them."""
    run: str | None = None
    """In place of gpt_model_file: the directory of a run, whose checkpoints are scored one after the other.
    What is scored already is not scored again."""
    checkpoints: str | None = None
    """Which of the run's checkpoints: all (null means the same), or a number: the newest so many."""
    name: str | None = None
    """Column of the table; None: the model file's name."""
    tasks: list[str] = field(default_factory=list)
    """lm-eval's names of tasks, groups or tags, minibench_en, minibench_hi, and those in task_path."""
    task_path: list[str] = field(default_factory=list)
    """Directories with task files of your own, in lm-eval's format; these win over its own."""
    texts: TextsConfig = field(default_factory=TextsConfig)
    table: str | None = None
    """What the results' file calls the set of tasks; eval=NAME sets it. None: the tasks themselves."""
    minibench: str | None = None
    """Directory of a generated benchmark (tools.make_corpus writes it)."""
    mirror: str | None = None
    """Directory made by tools.prefetch_benchmarks; None: the Hugging Face hub."""
    limit: int | None = None
    """Documents per task; None: all."""
    num_fewshot: int = 0
    """Solved examples before every question."""
    seed: Annotated[int, AtMost(2**32 - 1)] = 1234
    """Decides which examples are shown, and the order of packed texts."""
    max_batch_tokens: int = 16384
    """Tokens in one forward pass, padding included."""
    max_logits_bytes: Bytes = 2**29
    """Bytes of one forward pass's scores over the vocabulary, in fp32; one document may need more."""
    bootstrap_iters: Annotated[int, AtMost(10**6)] = 1000
    """Bootstrap resamplings for standard errors that have no formula; 0: no standard errors."""
    output: str | None = None
    """Where the results go (JSON); None: evaluation/<name>-<table>.json beside the model file or in its run.
    Results that are there are never replaced: other ones get the next free number, <name>-<table>-2.json."""
    repeat: bool = False
    """Evaluate once more what has been evaluated already, into another file."""
    log_samples: bool = False
    """Write every document with its prompts and answers too, in lm-eval's format."""
    check: str | None = None
    """YAML file of published figures: prints which rows agree within two standard errors. Exit code 2 if one
    does not."""
    check_column: str | None = None
    """Which of its columns; None: the first."""
    precision: str = "auto"
    """auto (bf16 on CUDA, fp32 on the CPU), bf16 or fp32."""
    num_threads: int | None = None
    """torch CPU threads; None: OMP_NUM_THREADS, else one per core."""
    tensor_model_parallel_size: Processes = 1
    """Every layer's matrices are split over this many processes, for models that do not fit into one."""
    pipeline_model_parallel_size: Processes = 1
    """The layers are split into this many stages. Processes beyond these two share the questions."""
    dry_run: bool = False
    """Check the settings, the model file and the place of the results, print what would run, and stop."""
    columns: list[str] = field(default_factory=list)
    """Titles of published figures to set beside the results."""
    rows: list[TableRow] = field(default_factory=list)
    """Rows of the table; requested tasks without a row follow with all their metrics."""
