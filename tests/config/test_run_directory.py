"""python -m recipes.config.run_directory: one line, and nothing heavy is imported for it."""

from tests.support.spy import ENGINE, spy

MODULE = "recipes.config.run_directory"


def test_one_line_without_the_engine() -> None:
    (done,) = spy([MODULE, "experiment=quickstart", "output_dir=runs/${seed}"])
    assert (done.code, done.out, done.err) == (0, "runs/1234/quickstart\n", "")
    assert not done.imported & ENGINE


def test_mistakes_are_one_line_and_exit_code_2() -> None:
    wrong = ("outputdir=x", "data.seq_length=x")
    for done in spy(*([MODULE, "experiment=quickstart", setting] for setting in wrong)):
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done.err
