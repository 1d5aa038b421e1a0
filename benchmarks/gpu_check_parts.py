"""What benchmarks.gpu_check runs, the most important first."""

from __future__ import annotations

from dataclasses import dataclass, field

from recipes.errors import UserError


@dataclass(frozen=True)
class Part:
    """A process and how long it may take; {json}, {data} and {nanochat} stand for paths."""

    name: str
    limit_s: float
    command: list[str]
    """Arguments of Python."""
    tiny: list[str] | None = None
    """The same with --tiny; None: as it is."""
    environment: dict[str, str] = field(default_factory=dict)
    needs: str | None = None
    """An option without which the part is skipped."""
    compiles_long: bool = False
    """Whether it is run beside the tests too, for the compiler to find its kernels ready afterwards."""
    waits_for_turn: bool = False
    """Whether its process may be started early: it imports what it needs, then waits (benchmarks.door)."""


def benchmark(module: str, *arguments: str) -> list[str]:
    return ["-m", f"benchmarks.{module}", "--json", "{json}", *arguments]


SHORT = ("--steps", "2", "--warm-up", "1", "--turns", "1", "data.seq_length=32")
TWO_EACH = ("trainer.micro_batch_size=2", "trainer.global_batch_size=4")
NANOCHAT = ("--against", "nanochat", "--compile", "--checkout", "{nanochat}")

PARTS = (
    Part("versions", 25, benchmark("versions")),
    Part(
        "param1",
        100,
        benchmark(
            *("model_step", "--against", "nothing", "--profile", "--micro-batches", "2", "4"),
            *("--steps", "5", "--warm-up", "2", "--turns", "1"),
            *("model=param1_2p9b", "data.seq_length=2048", "trainer.precision=bf16"),
            *("trainer.micro_batch_size=4", "trainer.global_batch_size=16"),
        ),
        benchmark(
            *("model_step", "--against", "nothing", "--profile", "--micro-batches", "1", "2"),
            *(*SHORT, *TWO_EACH),
        ),
        waits_for_turn=True,
    ),
    Part(
        "tests",
        120,
        ["-m", "pytest", "-m", "cuda", "tests/cuda", "-p", "no:cacheprovider", "--tb=short", "-rfE"],
        environment={"PARAM_RECIPES_TEST_CUDA": "1"},
    ),
    Part(
        "quickstart",
        100,
        benchmark(
            *("quickstart_chain", "--data", "{data}", "trainer.max_steps=400", "trainer.limit_val_batches=5"),
        ),
        benchmark(
            *("quickstart_chain", "--data", "{data}", "trainer.max_steps=4", "trainer.limit_val_batches=1"),
            *("trainer.log_every_n_steps=1", "optim.lr_warmup_steps=1"),
        ),
    ),
    Part(
        "completion",
        70,
        benchmark("completion", "--against", "transformers", "--new", "48", "model=param1_2p9b"),
        benchmark(
            *("completion", "model=tiny", "--against", "transformers"),
            *("--prompt", "8", "--new", "16", "--batches", "1"),
        ),
        waits_for_turn=True,
    ),
    Part(
        "nano",
        150,
        benchmark(
            *("model_step", *NANOCHAT, "model=nano_hindi_25m", "optim=muon", "data.seq_length=1024"),
            *("trainer.micro_batch_size=32", "trainer.global_batch_size=64"),
            *("--steps", "10", "--warm-up", "3", "--turns", "1"),
        ),
        benchmark(
            *("model_step", *NANOCHAT, "model=tiny_nano_hindi", "optim=muon", *SHORT, *TWO_EACH),
        ),
        needs="nanochat",
        compiles_long=True,
        waits_for_turn=True,
    ),
    Part(
        "lumen",
        110,
        benchmark(
            *("model_step", "--against", "transformers", "--compile", "model=lumen_128m"),
            # transformers' Llama drops attention weights alone.
            *("model.hidden_dropout=0", "model.attention_dropout=0"),
            *("data.seq_length=2048", "trainer.micro_batch_size=12", "trainer.global_batch_size=12"),
            *("--steps", "10", "--warm-up", "3", "--turns", "1"),
        ),
        benchmark("model_step", "--against", "transformers", *SHORT, *TWO_EACH),
        compiles_long=True,
        waits_for_turn=True,
    ),
    Part(
        "trainer",
        45,
        benchmark("step_time", "--data", "{data}", "--steps", "100", "--turns", "2"),
        benchmark("step_time", "--data", "{data}", "--steps", "20", "--turns", "1", "data.seq_length=32"),
        waits_for_turn=True,
    ),
    Part(
        "trainer_lumen",  # A step that takes the GPU longer than the host.
        60,
        benchmark(
            *("step_time", "--data", "{data}", "--steps", "40", "--turns", "1"),
            *("model=lumen_128m", "data.seq_length=1024", "trainer.compile=false"),
            *("trainer.micro_batch_size=16", "trainer.global_batch_size=64"),
        ),
        benchmark(
            *("step_time", "--data", "{data}", "--steps", "20", "--turns", "1"),
            *("data.seq_length=32", *TWO_EACH),
        ),
        waits_for_turn=True,
    ),
    Part(
        "checkpoint",
        80,
        benchmark(
            *("checkpoint_save", "--data", "{data}", "--every", "40", "--saves", "2", "--turns", "1"),
            *("model=lumen_128m", "data.seq_length=1024", "trainer.compile=false"),
            *("trainer.micro_batch_size=16", "trainer.global_batch_size=64"),
        ),
        benchmark(
            *("checkpoint_save", "--data", "{data}", "--every", "10", "--saves", "2", "--turns", "1"),
            "data.seq_length=32",
        ),
        waits_for_turn=True,
    ),
    Part(
        "scoring",
        100,
        benchmark(
            *("scoring", "--kinds", "choices,letters,texts", "--documents", "128", "--slices", "1"),
            *("--batches", "32", "--precision", "bf16", "model=param1_2p9b"),
        ),
        benchmark("scoring", "--documents", "4", "--slices", "1", "--batches", "2", "model=tiny"),
        waits_for_turn=True,
    ),
    Part(
        "loading",
        80,
        benchmark("load_time", "--turns", "2", "--precision", "bf16", "model=param1_2p9b"),
        benchmark("load_time", "model=tiny", "--turns", "1"),
        waits_for_turn=True,
    ),
)


def chosen(only: str | None) -> list[Part]:
    """The parts that --only names, in the order of importance.

    Raises:
        UserError: there is no such part.
    """
    names = [part.name for part in PARTS] if only is None else only.split(",")
    known = ", ".join(part.name for part in PARTS)
    for name in names:
        if name not in known.split(", "):
            raise UserError(f"--only {only}: no part is called {name!r}; there are {known}")
    return [part for part in PARTS if part.name in names]
