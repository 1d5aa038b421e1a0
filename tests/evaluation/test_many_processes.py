"""Evaluation in several processes, which share the questions, the model, or both."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.evaluation.journal import read_journal
from recipes.report.evaluation_result import read_results
from tests.support.evaluation_cases import (
    answers_case,
    evaluate_case,
    kill_after_three_units,
    scarce_memory_case,
    write_benchmark,
)
from tests.support.forked import Forked
from tests.support.nemo_files import FIXTURES, MAIN
from tests.support.pool import CaseFailed, GlooPool
from tests.support.source_cases import write_case

TOKENIZER, VOCABULARY = str(FIXTURES / "nemo2_local" / "ckpt" / "context" / "tiny_sp.model"), 448


@pytest.fixture(scope="module")
def alone() -> tuple[list[tuple[float, bool]], list[str], int]:
    (result,) = GlooPool().run(1, answers_case)
    return result


def test_processes_that_share_the_questions_answer_as_one(
    gloo_pool: GlooPool, alone: tuple[list[tuple[float, bool]], list[str], int], tmp_path: Path
) -> None:
    results = gloo_pool.run(2, answers_case, 1, 1, str(tmp_path))
    for scored, written, _ in results:
        assert (scored, written) == alone[:2]  # To the last bit, in order.
    done = [units for *_, units in results]
    assert sum(done) == alone[2] and min(done) >= 2
    assert len(read_journal(tmp_path)) == alone[2]


@pytest.mark.parametrize(
    ("size", "tensor", "pipeline"), [(2, 2, 1), (2, 1, 2), pytest.param(4, 1, 2, marks=pytest.mark.slow)]
)
def test_a_split_model_answers_as_a_whole_one(
    gloo_pool: GlooPool,
    alone: tuple[list[tuple[float, bool]], list[str], int],
    size: int,
    tensor: int,
    pipeline: int,
    tmp_path: Path,
) -> None:
    results = gloo_pool.run(size, answers_case, tensor, pipeline, str(tmp_path))
    for scored, written, _ in results:
        assert [score for score, _ in scored] == pytest.approx([score for score, _ in alone[0]], abs=1e-5)
        assert ([greedy for _, greedy in scored], written) == ([greedy for _, greedy in alone[0]], alone[1])
        assert scored == results[0][0]
    # Each part of the work was done, and kept, once.
    assert sum(units for *_, units in results) == alone[2] * tensor * pipeline
    assert len(list(tmp_path.iterdir())) == size // (tensor * pipeline)


@pytest.mark.parametrize(
    ("size", "tensor", "pipeline"), [(2, 2, 1), (2, 1, 2), pytest.param(4, 2, 1, marks=pytest.mark.slow)]
)
def test_where_one_rank_runs_out_of_memory_all_read_less(
    gloo_pool: GlooPool,
    alone: tuple[list[tuple[float, bool]], list[str], int],
    size: int,
    tensor: int,
    pipeline: int,
) -> None:
    results = gloo_pool.run(size, scarce_memory_case, tensor, pipeline, 4)
    for scored, written, _ in results:
        assert [score for score, _ in scored] == pytest.approx([score for score, _ in alone[0]], abs=1e-5)
        assert (written, scored) == (alone[1], results[0][0])
    # Too much was tried, but no more often than it was read; and there is more than one row where it fits.
    rows = results[-1][2]
    assert 0 < sum(count > 4 for count in rows) < 12 and sum(2 <= count <= 4 for count in rows) > 4, rows


@pytest.mark.slow
@pytest.mark.parametrize("name", ["param_moe", "uneven_experts"])
def test_split_experts_answer_as_whole_ones(gloo_pool: GlooPool, name: str, tmp_path: Path) -> None:
    """Dealt to two ranks or each cut in two, with enough memory and with too little."""
    gloo_pool.run(1, write_case, name, str(tmp_path), {}, TOKENIZER, VOCABULARY)
    path = str(tmp_path / f"{name}.nemo")
    ((scored, written, _),) = gloo_pool.run(1, answers_case, 1, 1, None, path)
    for found in (
        *gloo_pool.run(2, answers_case, 2, 1, None, path),
        *gloo_pool.run(2, scarce_memory_case, 2, 1, 4, path),
    ):
        assert [score for score, _ in found[0]] == pytest.approx([score for score, _ in scored], abs=1e-5)
        assert found[1] == written


def test_one_document_that_one_rank_cannot_read_ends_all(gloo_pool: GlooPool) -> None:
    with pytest.raises(CaseFailed, match=r"one document does not fit .*_size \((on another rank|CUDA out)"):
        gloo_pool.run(2, scarce_memory_case, 2, 1, 0)


def test_the_first_process_writes_for_all(gloo_pool: GlooPool, tmp_path: Path) -> None:
    benchmark = write_benchmark(tmp_path / "benchmark", items=12)
    settings = [f"gpt_model_file={MAIN / 'model.nemo'}", "eval=minibench", f"minibench={benchmark}"]
    settings += ["num_threads=1", "max_batch_tokens=150"]
    codes = [
        gloo_pool.run(size, evaluate_case, [*settings, f"output={tmp_path / f'{size}.json'}"])
        for size in (1, 2)
    ]
    # It is there, so none of them has anything to do.
    codes.append(gloo_pool.run(2, evaluate_case, [*settings, f"output={tmp_path / '2.json'}"]))
    assert codes == [[0], [0, 0], [0, 0]]
    one, two = (read_results(tmp_path / f"{size}.json") for size in (1, 2))
    assert one.tasks == two.tasks and one.settings == two.settings
    assert (one.made_with["processes"], two.made_with["processes"]) == (1, 2)
    files = [{path.name.partition("_2")[0] for path in (tmp_path / str(size)).iterdir()} for size in (1, 2)]
    assert files[0] == files[1] and not list(tmp_path.glob("*.unfinished-*"))


def test_what_the_first_process_refuses_ends_all(gloo_pool: GlooPool, tmp_path: Path) -> None:
    output = tmp_path / "x.json"
    output.write_text("notes")
    benchmark = write_benchmark(tmp_path / "benchmark", items=2)
    settings = [f"gpt_model_file={MAIN / 'model.nemo'}", "eval=minibench", f"minibench={benchmark}"]
    with pytest.raises(CaseFailed, match=r"UserError: .*x\.json is not an evaluation result"):
        gloo_pool.run(2, evaluate_case, [*settings, f"output={output}"])


def test_an_evaluation_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    benchmark = write_benchmark(tmp_path / "benchmark", items=30)
    settings = [f"gpt_model_file={MAIN / 'model.nemo'}", "eval=minibench", f"minibench={benchmark}"]
    settings += ["num_threads=1", "max_batch_tokens=150"]

    whole = Forked("recipes.evaluate", [*settings, f"output={tmp_path / 'whole.json'}"])
    whole.communicate(240)
    killed = Forked("recipes.evaluate", [*settings, f"output={tmp_path / 'x.json'}"], kill_after_three_units)
    killed.communicate(240)
    assert (whole.returncode, killed.returncode) == (0, -9)
    (journal,) = tmp_path.glob("x.unfinished-*")
    known = read_journal(journal)
    assert len(known) == 3 and not (tmp_path / "x.json").exists()

    again = Forked("recipes.evaluate", [*settings, f"output={tmp_path / 'x.json'}"])
    out, err = again.communicate(240)
    assert again.returncode == 0, err
    count = sum(map(len, known.values()))
    assert f"goes on where an earlier evaluation stopped: {count:,} answers are kept in {journal}\n" in out
    results = [read_results(tmp_path / file) for file in ("whole.json", "x.json")]
    assert results[0].tasks == results[1].tasks and not journal.exists()
