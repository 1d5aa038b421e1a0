"""The run report: one self-contained HTML page made from a run directory.

>>> write_report(Path("outputs/lumen_128m"))
"""

from recipes.report.page import write_report

__all__ = ["write_report"]
