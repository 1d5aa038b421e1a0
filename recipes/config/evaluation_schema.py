"""The settings of benchmarks that training and evaluation share."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from recipes.bounds import Bytes


@dataclass(frozen=True)
class TextsConfig:
    """Texts of your own, and how their bits per byte are measured; a task bits_per_byte_<name> for each."""

    files: dict[str, str] = field(default_factory=dict)
    """Name -> file: JSON lines, or a text on every line of any other file, compressed or not."""
    text_key: str = "text"
    """Where a JSON line has its text."""
    packed: bool = True
    """Texts follow one another, each ended by EOS, in the order of training's validation. With window =
    data.seq_length, and the run's seed, the figure is valid.<set>.bits_per_byte. false: each text is read by
    itself, and its EOS does not count."""
    window: int | None = None
    """Tokens that are read at once; None: as many as the model can."""
    stride: int | None = None
    """Tokens by which the window moves on; smaller ones give every token more to go by, and take longer.
    None: window."""


@dataclass(frozen=True)
class EvaluationConfig:
    """A small benchmark of the model in training; its scores go to metrics.jsonl and the report."""

    every_n_steps: int | None = None
    """And after the last step; None: no benchmark."""
    table: str | None = None
    """A table of conf/eval whose tasks, limit and num_fewshot are meant, such as minibench or smoke."""
    tasks: list[str] = field(default_factory=list)
    """In place of table, or beside it: names as in recipes.evaluate."""
    task_path: list[str] = field(default_factory=list)
    """Directories with task files of your own."""
    minibench: str | None = None
    """Directory of a generated benchmark (tools.make_corpus writes it)."""
    mirror: str | None = None
    """Directory made by tools.prefetch_benchmarks; None: the Hugging Face hub, or what was loaded before."""
    limit: int | None = None
    """Documents per task; None: as the table says, or all."""
    num_fewshot: int | None = None
    """Solved examples before every question; None: as the table says, or none."""
    max_batch_tokens: int = 8192
    """Tokens in one forward pass, padding included."""
    max_logits_bytes: Bytes = 2**28
    """Bytes of one forward pass's scores over the vocabulary, in fp32; one document may need more."""


# Not frozen: OmegaConf cannot merge a YAML into an entry of a list of a frozen type.
@dataclass
class TableRow:
    """One row of the table that an evaluation prints."""

    name: str = MISSING
    """The row's title."""
    task: str = MISSING
    """lm-eval's name of the task, group or tag, or minibench_en, minibench_hi."""
    metric: str = MISSING
    """lm-eval's full name of the metric: "acc_norm,none"."""
    published: list[float] = field(default_factory=list)
    """Published figures in percent, one per title in columns; empty: none are known."""
    complement: bool = False
    """Show 1 - value in a second row: the stock task scores the wrong answers as right."""
    note: str = ""
    """Printed below the table."""
