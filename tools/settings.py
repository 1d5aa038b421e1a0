"""Print every setting of the jobs, with its type, default and meaning, as Markdown."""

from recipes.arguments import Arguments
from recipes.cli import run_tool

EXAMPLES = """\
examples:
  python -m tools.settings > docs/settings.md

For a single setting or a group: python -m recipes.pretrain help=trainer.compile
"""


def main() -> None:
    """Prints docs/settings.md."""
    Arguments("tools.settings", __doc__, EXAMPLES).parse_args()
    from recipes.config.meanings_text import markdown

    print(markdown(), end="")


if __name__ == "__main__":
    run_tool(main)
