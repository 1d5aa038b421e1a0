"""The commands, settings, options and files that pages, docstrings and help texts name exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from recipes.config.command_line import ALONE, TAKE_A_WORD
from recipes.config.jobs import SCHEMAS
from recipes.config.meanings import settings_of
from recipes.config.script_arguments import AS_WE_DO
from recipes.errors import UserError
from tests.support.command_checks import check
from tests.support.paths import ROOT
from tests.support.shown_commands import Shown, in_markdown, in_text, shown_in, spans_of

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    # What was decided on a day is told in the words of that day.
    *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "decisions.md"),
]
CODE = sorted(path for room in ("recipes", "tools", "benchmarks") for path in (ROOT / room).rglob("*.py"))
OTHERS = [
    *sorted((ROOT / "conf").rglob("*.yaml")),
    ROOT / "nemo_inference.sh",
    ROOT / "docker/slurm/pretrain.sbatch",
]
COMMANDS = [shown for path in (*PAGES, *CODE, *OTHERS) for shown in shown_in(path)]
ELSEWHERE = {
    "my_package": "a package of the reader's own; tests/families/test_new_family.py installs one",
    "tokenizer.type": "a key of NeMo's model_config.yaml",
    "tokenizer.library": "a key of NeMo's model_config.yaml",
    "tools/preprocess_data.py": "a file of Megatron-LM",
}
"""What pages name that is no part of this project."""


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("there")
    (directory / "checkpoints").mkdir()
    (directory / "file").write_text("text\n")
    (directory / "hashes").write_text(f"{sha256(b'text').hexdigest()}\n")
    (directory / "manifest.json").write_text("{}")
    return directory


@pytest.mark.parametrize("shown", COMMANDS, ids=str)
def test_a_shown_command_would_be_understood(shown: Shown, there: Path) -> None:
    if "my_package" in shown.text:
        assert "my_package" in ELSEWHERE
    elif shown.error:
        with pytest.raises(UserError) as refused:
            check(shown.text, there)
        assert f"error: {refused.value}" == shown.error
    else:
        check(shown.text, there)


MISTAKES = {
    "python -m tools.nothing x": "there is no module tools.nothing",
    "python -m recipes.pretrain experiment=quickstarts": "did you mean quickstart",
    "python -m recipes.pretrain experiment=quickstart trainer.max_stepz=5": "trainer.max_steps",
    "python -m recipes.pretrain experiment=quickstart trainer.max_steps=-1": "trainer.max_steps=-1",
    "python -m recipes.pretrain ... trainer.max_stepz=5": "trainer.max_steps",
    "python -m recipes.pretrain experimint=...": "experimint",
    "python -m recipes.pretrain help=trainer.compiler": "trainer.compiler",
    "python -m recipes.pretrain -m experiment=quickstart model=tiny,tinny": "did you mean tiny",
    "python -m recipes.pretrain experiment=quickstart --max-steps 5": "--max-steps",
    "python -m recipes.pretrain experiment=quickstart parallel=tp2_pp2": "needs a multiple of 4 processes",
    "torchrun --nproc-per-node 2 -m recipes.pretrain experiment=quickstart parallel=tp2_pp2": "there are 2",
    "RECIPES_FAULTS=nun:step=3 python -m recipes.pretrain experiment=quickstart": "nun",
    "RECIPES_FAULT=nan:step=3 python -m recipes.pretrain experiment=quickstart": "nothing reads",
    "python -m recipes.evaluate gpt_model_file=x tasks=[arc_eazy]": "did you mean arc_easy",
    "python -m recipes.evaluate gpt_model_file=x eval=param2_table": "param1_table",
    "python -m recipes.generate gpt_model_file=x prompts=[x] inference.topk=3": "inference.top_k",
    "python -m tools.clean data=real_text output_dir=x pii.kinds=[mail]": "pii.kinds=mail",
    "python -m tools.convert a b --two hf": "--two",
    "python -m tools.convert a b --to gguf": "invalid choice: 'gguf'",
    "python -m tools.convert a --to hf": "DST",
    "python -m tools.describe model=tiny model.num_layer=3": "model.num_layers",
    "python -m tools.download wikipedia_he --out x": "no such source",
    "python -m tools.plan experiment=param1_2p9b cluster=shakti_512xh100 cluster.node=3": "cluster.nodes",
    "python -m tools.prefetch_benchmarks x eval=indic2": "indic",
    "python -m benchmarks.scoring model=tiny trainer.max_stepz=5": "trainer.max_steps",
    "python -m benchmarks.model_step --against transformers": "no model; for example",
    "python -m benchmarks.gpu_check --out x --only param2": "param2",
    "python -m tools.extract a b && ./nemo_inference.sh b x inference.topk=3": "inference.top_k",
    './nemo_inference.sh model.nemo "x" top_kay=3': "top_kay",
    "topk=3 ./nemo_inference.sh ...": "does not read topk",
    'sbatch --wrap "python -m tools.preprocess a --tokenizer b --outt c"': "--outt",
    "CONTAINER=x sbatch docker/slurm/pretrain.sbatch experiment=param1_2p9b": "explains no CONTAINER",
    "sbatch docker/slurm/pretrain.sbatch experiment=lumen_128m": "trainer.global_batch_size=48",
    "sbatch docker/slurm/train.sbatch experiment=lumen_128m": "no such file in the project",
    "curl http://127.0.0.1:5555/v1/complete -d '{}'": "no such address",
    "curl http://127.0.0.1:5555/v1/completions -d '{}'": "Content-Type: application/json",
    "curl -X PUT http://127.0.0.1:5555/generate -H 'Content-Type: application/json' "
    """-d '{"sentences": ["x"], "tokens": 8}'""": "unknown fields: tokens",
    "make quickstarted": "no such target",
    "pip install -e '.[serve]' -c constraints.txt": "no such extra",
    "python -m pytest tests/reports": "no such file in the project",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_found(command: str, there: Path) -> None:
    [(found, _)] = in_text(command)
    assert found == command
    with pytest.raises(UserError, match=re.escape(MISTAKES[command])):
        check(found, there)


PAGE = """\
Run `python -m
tools.settings`, or ``make test``:

    $ python -m tools.a --flag  # comment
    error: no
    for part in a b; do
        X=1 python -m tools.b $part \\
            --out c
    done
    python a.py

```
python -m tools.c
```

```python
python -m tools.d
```
"""


def test_commands_are_found_in_a_page() -> None:
    assert sorted(in_markdown(PAGE)) == [
        ("X=1 python -m tools.b $part  --out c", ""),
        ("make test", ""),
        ("python -m tools.a --flag", "error: no"),
        ("python -m tools.c", ""),
        ("python -m tools.settings", ""),
    ]


def test_every_door_is_shown_somewhere() -> None:
    from tests.test_doors import DOORS

    shown = {word for command in COMMANDS for word in command.text.split()}
    assert set(DOORS) <= shown


def spans() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        if page.name == "settings.md":  # Made of the settings; tests/config/test_meanings.py keeps it so.
            continue
        yield from ((page.name, span) for span in spans_of(page.read_text(encoding="utf-8")))


def test_settings_in_spans_exist() -> None:
    """What looks like one: dotted, below a group of settings, and no file name."""
    known = {key for schema in SCHEMAS.values() for key in settings_of(schema)} | {*AS_WE_DO, *ELSEWHERE}
    groups = {key.partition(".")[0] for key in known if "." in key}
    for page, span in spans():
        for key in re.findall(r"(?:^|\s)[+~]*([a-z_]+(?:\.[\w<>]+)+)(?![\w./(])", span):
            if key.partition(".")[0] in groups and not re.search(r"\.(nemo|json|ya?ml|py|gguf)$", key):
                assert any(_same(one, key) for one in known), f"{page}: {key}"


def _same(known: str, key: str) -> bool:
    """A part in <> or in capitals stands for any: a source's name in the schema, what a page leaves open."""
    if key.startswith("model.megatron."):  # Passed on; recipes/config/megatron_fields.py knows the names.
        return known == "model.megatron"
    one, other = known.split("."), key.split(".")
    return len(one) == len(other) and all(
        a == b or "<" in a + b or b.isupper() for a, b in zip(one, other, strict=True)
    )


def test_options_in_spans_exist() -> None:
    sources = [path.read_text(encoding="utf-8") for path in CODE]
    known = {*TAKE_A_WORD, *ALONE, *(flag for text in sources for flag in re.findall(r'"(--[a-z-]+)"', text))}
    for page, span in spans():
        if page not in ("run-on-slurm.md", "containers.md"):  # Those are Slurm's and Docker's.
            for flag in re.findall(r"^(--[a-z-]+)(?![\w-])", span):
                assert flag in known, f"{page}: {flag}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_the_project_exist(page: Path) -> None:
    rooms = "recipes|tools|conf|tests|benchmarks|docker|docs"
    for name in re.findall(rf"(?<![\w/.>-])((?:{rooms})/[\w./*-]*\w)", page.read_text(encoding="utf-8")):
        if not re.search(r"[A-Z]{3}", name) and name not in ELSEWHERE:
            assert list(ROOT.glob(name)), f"{page.name}: {name}"
