"""Every setting of `python -m tools.clean`, typed. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

LANGUAGES = ("eng_Latn", "hin_Deva", "hin_Latn")
"""What a source can be declared to be: English, Hindi, romanised Hindi (Hinglish)."""
PII_KINDS = (
    "email",
    "upi",  # Addresses of the Unified Payments Interface: name@bank.
    "ip",  # Public IPv4 and IPv6 addresses.
    "aadhaar",  # Identity number: twelve digits, the last a check digit.
    "vid",  # Virtual ID: the sixteen digits that stand for an Aadhaar number.
    "phone",  # Indian mobile and landline numbers.
    "gstin",  # Taxpayer number for goods and services; contains the owner's PAN.
    "pan",  # Income tax number.
    "vehicle",  # Registration plates, with the BH series.
    "voter_id",  # EPIC, on the voter's identity card.
    "passport",
    "driving_licence",
    "bank",  # Account numbers, and IFSC codes of branches.
)
"""What can be masked, in order of precedence; each becomes its name in capitals: <VOTER_ID>."""


@dataclass  # Not frozen, as all entries of dictionaries: OmegaConf could not merge a YAML into them.
class TextSource:
    """One source of raw text."""

    path: list[str] = MISSING
    """JSONL files (.jsonl, also .gz, .zst, .bz2), directories of them, or patterns with * and ?."""
    language: str = MISSING
    """eng_Latn, hin_Deva or hin_Latn. Documents in another language are dropped."""
    text_key: str = "text"
    """The text's key in a line."""


@dataclass(frozen=True)
class TextConfig:
    """Raw text."""

    sources: dict[str, TextSource] = field(default_factory=dict)
    """Name of a source -> where it is. Kept documents go to kept/<name>/."""


@dataclass(frozen=True)
class LanguageConfig:
    """The language of documents, by script and by an identification model."""

    enabled: bool = True
    """Whether documents in another language than their source's are dropped."""
    min_script_fraction: float = 0.65
    """Least share of Devanagari (or Latin) letters among all letters."""
    fasttext_model: str | None = None
    """A fastText identification model (lid.176.bin, GlotLID); None: py3langid."""


@dataclass
class GopherConfig:
    """Thresholds of Gopher's quality rules (arXiv 2112.11446, table A1); 0 turns a rule off."""

    min_doc_words: int = 50
    """Least number of words of a document."""
    max_doc_words: int = 100000
    """Largest number of words of a document."""
    min_avg_word_length: float = 3
    """Least mean length of words, in code points: Hindi counts vowel signs and viramas as such."""
    max_avg_word_length: float = 10
    """Largest mean length of words."""
    max_symbol_word_ratio: float = 0.1
    """Largest number of # and ... per word."""
    max_bullet_lines_ratio: float = 0.9
    """Largest share of lines that begin with a bullet."""
    max_ellipsis_lines_ratio: float = 0.3
    """Largest share of lines that end with an ellipsis."""
    min_alpha_words_ratio: float = 0.8
    """Least share of words that contain a letter."""
    min_stop_words: int = 2
    """Least number of different stop words in a document."""
    stop_words: list[str] = field(default_factory=list)
    """Words that any running text of the language contains."""
    min_sentence_end_lines: float = 0.0
    """Least share of lines that end like a sentence, with . ! ? or danda. 0: not checked."""


@dataclass(frozen=True)
class QualityConfig:
    """Rules for running text, per language."""

    enabled: bool = True
    """Whether documents that break a rule are dropped."""
    gopher: dict[str, GopherConfig] = field(default_factory=dict)
    """Language -> thresholds."""
    repetition: bool = True
    """Gopher's rules against repeated lines, paragraphs and n-grams, with their published thresholds, for
    texts of at least 50 words."""


@dataclass(frozen=True)
class ExactDedupConfig:
    """Equal documents, over all sources together."""

    enabled: bool = True
    """Whether all but the first of equal documents are dropped."""


@dataclass(frozen=True)
class MinhashConfig:
    """Near duplicates, over all sources together. Two documents whose n-grams agree in the fraction s are
    found with probability 1 - (1 - s ** hashes_per_bucket) ** num_buckets."""

    enabled: bool = True
    """Whether all but one of near duplicates are dropped."""
    n_grams: int = 5
    """Words of an n-gram."""
    num_buckets: int = 14
    """Groups of hashes; documents that agree in one are near duplicates."""
    hashes_per_bucket: int = 8
    """Hashes of a group."""
    seed: int = 1
    """Decides the hash functions."""


@dataclass
class WordList:
    """Documents that contain a list's words are dropped."""

    path: str = MISSING
    """UTF-8, one word or phrase per line; lines that begin with # are comments."""
    min_matches: int = 1
    """A document with at least this many occurrences is dropped."""


@dataclass(frozen=True)
class ListsConfig:
    """Adult, abuse and child-safety lists; none are shipped."""

    enabled: bool = True
    """Whether documents with listed words or hashes are dropped."""
    words: dict[str, WordList] = field(default_factory=dict)
    """Name of a list -> words, in any language."""
    hashes: dict[str, str] = field(default_factory=dict)
    """Name of a list -> file with one SHA-256 (hexadecimal) per line, of whole documents: NFC, without
    surrounding white space, UTF-8."""


@dataclass(frozen=True)
class DecontaminationConfig:
    """Benchmark text in training text."""

    enabled: bool = True
    """Whether documents that contain benchmark text are dropped."""
    mirror: str | None = None
    """Benchmark mirror made by tools.prefetch_benchmarks; None: nothing is compared."""
    n_grams: int = 13
    """Words in a row that must be equal."""
    splits: list[str] = field(default_factory=lambda: ["test", "validation", "val", "dev"])
    """The splits whose text must not be trained on."""
    ignore_fields: list[str] = field(default_factory=list)
    """Columns of the benchmarks that are left out, for example passage: quoted articles."""


@dataclass(frozen=True)
class PiiConfig:
    """Personal data."""

    enabled: bool = True
    """Whether personal data are masked."""
    kinds: list[str] = field(default_factory=lambda: list(PII_KINDS))
    """What is masked; each becomes its name in capitals, <EMAIL>."""


@dataclass(frozen=True)
class StatsConfig:
    """Statistics of what is kept."""

    enabled: bool = False
    """datatrove's DocStats of what is kept (length, digits, punctuation ...), in stats/."""


@dataclass(frozen=True)
class SlurmConfig:
    """How executor=slurm submits its job arrays."""

    partition: str | None = None
    """sbatch's --partition; needed with executor=slurm."""
    time: str = "24:00:00"
    """sbatch's --time, of each job."""
    cpus_per_task: int = 1
    """sbatch's --cpus-per-task."""
    mem_per_cpu_gb: int = 4
    """sbatch's --mem-per-cpu, in GB."""
    qos: str | None = None
    """sbatch's --qos."""
    env_command: str | None = None
    """A command to run on each node first, for example: source /shared/venv/bin/activate."""
    sbatch_args: dict[str, str] = field(default_factory=dict)
    """More options of sbatch, for example {account: text}."""


@dataclass(frozen=True)
class CleanConfig:
    """Everything about one cleaning job."""

    output_dir: str = MISSING
    """Where kept/, dropped/, report.json and report.html go."""
    data: TextConfig = field(default_factory=TextConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    exact_dedup: ExactDedupConfig = field(default_factory=ExactDedupConfig)
    minhash: MinhashConfig = field(default_factory=MinhashConfig)
    lists: ListsConfig = field(default_factory=ListsConfig)
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    pii: PiiConfig = field(default_factory=PiiConfig)
    stats: StatsConfig = field(default_factory=StatsConfig)
    tasks: int = 8
    """Parts into which the input is split; a stage processes each independently of the others."""
    executor: str = "local"
    """local, or slurm: the same stages as job arrays that depend on each other."""
    workers: int | None = None
    """Parts processed at the same time; None: one per core (local), no limit (slurm)."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    examples_per_reason: int = 3
    """In report.html."""
    keep_work: bool = False
    """Keep work/: the documents between the stages."""
    dry_run: bool = False
    """Check the settings, print what would be done, and stop."""
