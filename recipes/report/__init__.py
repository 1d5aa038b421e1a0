"""The run report: one self-contained HTML page made from a run directory.

>>> write_report(Path("outputs/nano_hindi_25m"))
"""

from recipes.report.page import write_report

__all__ = ["write_report"]
