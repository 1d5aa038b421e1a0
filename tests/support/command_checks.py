"""Whether a command line that is shown somewhere would be understood. Nothing is run."""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from benchmarks import door as benchmark
from recipes.arguments import Arguments
from recipes.config.command_line import TAKE_A_WORD, check_arguments
from recipes.config.described_run import described, described_cluster, settings_of_run
from recipes.config.evaluation_tables import with_table
from recipes.config.hydra_app import compose
from recipes.config.jobs import SCHEMAS, config_groups
from recipes.config.meanings import settings_of
from recipes.config.meanings_text import asked_meaning
from recipes.config.overrides import is_sweep, quote_text
from recipes.config.script_arguments import as_settings
from recipes.config.serving_schema import TOKEN_VARIABLE
from recipes.config.validate import validate_pretrain
from recipes.config.validate_jobs import validate_evaluate, validate_generate
from recipes.config.validate_launch import validate_launch
from recipes.data.clean.validate import validate_clean
from recipes.errors import UserError
from recipes.evaluation.task_files import check_task_names, with_text_tasks
from recipes.families.model_config import AUTO
from recipes.launch.check_job import check_cluster
from recipes.launch.job_kinds import kind_of
from recipes.training.faults import parse_faults
from tests.support.configs import changed
from tests.support.paths import ROOT
from tests.support.shown_commands import Words, simple_commands
from tools.launch import VERBS, _split

JOBS = {
    "recipes.pretrain": "pretrain",
    "recipes.config.run_directory": "pretrain",
    "recipes.generate": "generate",
    "recipes.evaluate": "evaluate",
    "tools.clean": "clean",
}
PLACEHOLDER = re.compile(r"\.\.\.|[A-Z]+")
A_RUN = "experiment=quickstart"
LEFT_OUT = {
    "pretrain": [A_RUN, "trainer.micro_batch_size=1"],
    "generate": ["gpt_model_file=x", "prompts=[x]"],
    "evaluate": ["gpt_model_file=x", "tasks=[boolq]"],
    "clean": ["data=real_text", "output_dir=x"],
}
"""What stands for the settings that a page leaves out."""
PATHS = ("minibench", "output_dir")
"""Settings of evaluation and cleaning whose value may be a word in capitals, such as DIR."""


def check(text: str, there: Path) -> None:
    """Refuses a line of which a part would not be understood.

    Args:
        there: a directory that looks like a run, for every directory that the line names, with a file
            ``file`` for every file.

    Raises:
        UserError: as the program itself would say, where it would.
    """
    for words in simple_commands(text):
        name = Path(words.program).name
        if name in CHECKS:
            CHECKS[name](words, there)


def _python(words: Words, there: Path) -> None:
    _check_environment(words.environment)
    dash_m, module, *arguments = words.arguments
    assert dash_m == "-m"
    if importlib.util.find_spec(module) is None:
        raise UserError(f"there is no module {module}")
    _check_module(module, arguments, there, world_size=1)


def _torchrun(words: Words, there: Path) -> None:
    _check_environment(words.environment)
    if "-m" not in words.arguments:  # torchrun --nproc-per-node 2 ...
        return
    number = words.arguments.index("-m")
    options, (module, *arguments) = words.arguments[:number], words.arguments[number + 1 :]
    flag, processes = options
    assert flag == "--nproc-per-node"
    _check_module(module, arguments, there, world_size=int(processes))


def _check_module(module: str, arguments: list[str], there: Path, world_size: int) -> None:
    if module == "pytest":
        for path in arguments:
            _file(path)
    elif (
        module.split(".")[0] not in ("recipes", "tools", "benchmarks")
        or not arguments
        or "--help" in arguments
    ):
        return
    elif module in JOBS:
        _check_job(JOBS[module], arguments, there, world_size)
    elif module == "tools.launch" and (jobs := [each for each in arguments if each.startswith("job=")]):
        _check_launched(jobs[0].removeprefix("job="), arguments, there)
    else:
        _check_flags(module, arguments, there)


def _check_launched(job: str, arguments: list[str], there: Path) -> None:
    kind = kind_of(job)
    own, of_tool = _split(arguments)
    cluster = described_cluster(own)
    validate_launch(cluster)
    check_cluster(cluster, kind, own)
    settings = [each for each in settings_of_run(own) if not each.startswith("job=")]
    if kind.settings:
        _check_job(job, settings, there, cluster.nodes * cluster.gpus_per_node)
    else:
        _check_module(kind.module, of_tool, there, world_size=1)


def _check_job(job: str, arguments: list[str], there: Path, world_size: int = 1) -> None:
    arguments = _without_placeholders(job, arguments)
    if asked_meaning(job, arguments) is not None:
        return
    check_arguments(job, arguments)
    settings = [
        argument
        for number, argument in enumerate(arguments)
        if not argument.startswith("-") and (number == 0 or arguments[number - 1] not in TAKE_A_WORD)
    ]
    for one in _runs_of_sweep(job, settings) if is_sweep(arguments) else [settings]:
        VALIDATE[job](compose(job, one), there, world_size)


def _runs_of_sweep(job: str, settings: list[str]) -> list[list[str]]:
    quoted = quote_text(["--multirun", *settings], SCHEMAS[job])[1:]
    [runs] = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(quoted), None)
    return runs


def _without_placeholders(job: str, arguments: list[str]) -> list[str]:
    """With settings in their place, where a page writes ``...``, ``experiment=...`` or ``[key=value]``."""
    kept = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if argument == "..." or re.fullmatch(r"\[\w+=\w+\]", argument):
            continue
        if PLACEHOLDER.fullmatch(value) and key not in PATHS:
            if key not in (*config_groups(job), *settings_of(SCHEMAS[job]), "help"):
                raise UserError(f"{key}: there is no such setting")
            continue
        kept.append(argument)
    return kept if kept == arguments else [*LEFT_OUT[job], *kept]


def _validate_pretrain(config: Any, there: Path, world_size: int) -> None:
    evaluation = config.trainer.evaluation
    check_task_names(with_table(evaluation).tasks)
    for key in ("minibench", "mirror"):
        if getattr(evaluation, key) is not None:
            evaluation = replace(evaluation, **{key: str(there)})
    config = changed(config, trainer__evaluation=evaluation, dry_run=True)
    if config.parallel.world_size is None:
        config = changed(config, parallel__world_size=world_size)
    if config.model.vocab_size == AUTO:
        config = changed(config, model__vocab_size=8000)
    validate_pretrain(config)


def _validate_generate(config: Any, there: Path, world_size: int) -> None:
    file = config.prompts_jsonl and str(there / "file")
    with patch.dict("os.environ", {TOKEN_VARIABLE: "x" * 16}):
        validate_generate(replace(config, gpt_model_file=str(there), prompts_jsonl=file))


def _validate_evaluate(config: Any, there: Path, world_size: int) -> None:
    named = {
        key: str(there) for key in ("gpt_model_file", "run", "minibench", "mirror") if getattr(config, key)
    }
    texts = replace(config.texts, files=dict.fromkeys(config.texts.files, str(there / "file")))
    file = config.check and str(there / "file")
    config = with_text_tasks(replace(config, **named, texts=texts, check=file, dry_run=world_size == 1))
    if not config.task_path:
        check_task_names(config.tasks)
    with patch.dict("os.environ", {"WORLD_SIZE": str(world_size), "RANK": "0", "LOCAL_RANK": "0"}):
        validate_evaluate(config)


def _validate_clean(config: Any, there: Path, world_size: int) -> None:
    words = {name: replace(words, path=str(there / "file")) for name, words in config.lists.words.items()}
    hashes = dict.fromkeys(config.lists.hashes, str(there / "hashes"))
    mirror = config.decontamination.mirror and str(there)
    validate_clean(
        changed(
            config,
            lists=replace(config.lists, words=words, hashes=hashes),
            decontamination__mirror=mirror,
            dry_run=True,
        )
    )


VALIDATE: Mapping[str, Callable[[Any, Path, int], None]] = {
    "pretrain": _validate_pretrain,
    "generate": _validate_generate,
    "evaluate": _validate_evaluate,
    "clean": _validate_clean,
}


class _Parsed(BaseException):
    """Ends a tool as soon as it has read its command line."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options


def _stopping(name: str) -> Callable[..., NoReturn]:
    parse = getattr(argparse.ArgumentParser, name)

    def stop(*arguments: Any, **more: Any) -> NoReturn:
        raise _Parsed(parse(*arguments, **more))

    return stop


def _loading() -> NoReturn:
    raise _Parsed(argparse.Namespace())


def _check_flags(module: str, arguments: list[str], there: Path) -> None:
    """With the parser of a tool or benchmark; then what is settings of recipes.pretrain."""
    arguments = [re.sub(r"^\[(.*)\]$|\|.*\|\.\.\.$", r"\1", argument) for argument in arguments]
    door = importlib.import_module(module)
    try:
        with ExitStack() as stack:
            stack.enter_context(patch.object(sys, "argv", [module, *arguments]))
            if hasattr(door, "measure"):  # It checks its settings before it loads the engine.
                stack.enter_context(patch.object(benchmark, "quiet_libraries", _loading))
            else:
                for name in ("parse_args", "parse_intermixed_args"):
                    stack.enter_context(patch.object(Arguments, name, _stopping(name)))
            door.main()
        raise AssertionError(f"{module} does not parse its command line")
    except _Parsed as parsed:
        options = parsed.options
    if module in AFTERWARDS:
        AFTERWARDS[module](options)
    if module in WITH_CLUSTER:
        _check_on_cluster(WITH_CLUSTER[module](options), there)
    elif settings := getattr(options, "overrides", []):
        _check_job("pretrain", [A_RUN, *_without_placeholders("pretrain", settings)], there)


def _check_on_cluster(settings: list[str], there: Path) -> None:
    if settings:
        _, cluster = described(settings)
        validate_launch(cluster)
        gpus = cluster.nodes * cluster.gpus_per_node
        _check_job("pretrain", [*settings_of_run(settings), f"parallel.world_size={gpus}"], there, gpus)


def _check_download(options: argparse.Namespace) -> None:
    from recipes.data.download.corpora import LOCAL, SOURCES
    from recipes.data.download.options import Options, check

    if options.source not in (LOCAL, *SOURCES):
        raise UserError(f"{options.source}: there is no such source")
    check(Options(**vars(options)))


def _check_prefetch(options: argparse.Namespace) -> None:
    from tools.prefetch_benchmarks import _names

    check_task_names(_names(options.table, options.tasks))


def _check_plan(options: argparse.Namespace) -> None:
    from tools import plan

    plan._check(options)


def _check_parts(options: argparse.Namespace) -> None:
    from benchmarks.gpu_check import chosen

    chosen(options.only)


WITH_CLUSTER: Mapping[str, Callable[[argparse.Namespace], list[str]]] = {
    "tools.plan": lambda options: options.overrides,
    "tools.launch": lambda options: [] if options.arguments[0] in VERBS else options.arguments,
}
"""Their settings of a run and a cluster."""
AFTERWARDS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "tools.download": _check_download,
    "tools.plan": _check_plan,
    "tools.prefetch_benchmarks": _check_prefetch,
    "benchmarks.gpu_check": _check_parts,
}


def _nemo_inference(words: Words, there: Path) -> None:
    script = (ROOT / words.program).read_text(encoding="utf-8")
    options = []
    for name, value in words.environment.items():
        if not re.search(rf"^for name in .*\b{name}\b", script, re.MULTILINE):
            raise UserError(f"{words.program} does not read {name} from the environment")
        options.append(f"inference.{name}={value}")
    written = [word for word in words.arguments[1:] if not re.search(r"\.\.\.", word)]
    settings = as_settings([*options, *written])
    asked = any(setting.startswith(("prompts", "interactive")) for setting in settings)
    _check_job("generate", ["gpt_model_file=x", *settings, *([] if asked else ["prompts=[x]"])], there)


def _slurm(words: Words, there: Path) -> None:
    """sbatch, or bash in its place, with this project's script; or ``sbatch --wrap COMMAND``."""
    if "--wrap" in words.arguments:
        check(words.arguments[words.arguments.index("--wrap") + 1], there)
        return
    number = next(n for n, word in enumerate(words.arguments) if not word.startswith("-"))
    script = _file(words.arguments[number]).read_text(encoding="utf-8")
    for name in words.environment:
        if not re.search(rf"^#   {name} ", script, re.MULTILINE):
            raise UserError(f"{words.arguments[number]} explains no {name}")
    size = 1
    for option in ("--nodes", "--ntasks-per-node"):
        given = re.findall(rf"{option}=(\d+)", " ".join(words.arguments[:number]))
        size *= int((given or re.findall(rf"^#SBATCH {option}=(\d+)", script, re.MULTILINE))[0])
    _check_job("pretrain", words.arguments[number + 1 :], there, size)


def _make(words: Words, there: Path) -> None:
    _check_environment(words.environment)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in words.arguments:
        if target not in targets:
            raise UserError(f"make {target}: there is no such target")


def _pip(words: Words, there: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in re.findall(r"\.\[(\w+)\]", " ".join(words.arguments)):
        if extra not in project["optional-dependencies"]:
            raise UserError(f"{extra}: the project has no such extra")
    for flag, value in zip(words.arguments, words.arguments[1:], strict=False):
        if flag == "-c":
            _file(value)


def _curl(words: Words, there: Path) -> None:
    from tests.support.request_checks import check_curl  # It loads the server.

    check_curl(words.arguments)


def _file(path: str) -> Path:
    if not (ROOT / path).exists():
        raise UserError(f"{path}: no such file in the project")
    return ROOT / path


def _check_environment(environment: Mapping[str, str]) -> None:
    parse_faults(environment)
    for name in environment:
        if f'"{name}"' not in _sources():
            raise UserError(f"{name}: nothing reads this variable")


@cache
def _sources() -> str:
    rooms = ("recipes", "tools", "benchmarks", "tests")
    return "".join(path.read_text(encoding="utf-8") for room in rooms for path in (ROOT / room).rglob("*.py"))


CHECKS: Mapping[str, Callable[[Words, Path], None]] = {
    "python": _python,
    "torchrun": _torchrun,
    "nemo_inference.sh": _nemo_inference,
    "sbatch": _slurm,
    "bash": _slurm,
    "make": _make,
    "pip": _pip,
    "curl": _curl,
}
