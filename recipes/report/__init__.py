"""The report of a run, or of several: one self-contained HTML page made from run directories.

>>> write_report(Path("outputs/lumen_128m"))
>>> write_comparison([Path("outputs/lumen_128m"), Path("outputs/lumen_256m")])
"""

from recipes.report.comparison_page import write_comparison
from recipes.report.run_page import write_report

__all__ = ["write_comparison", "write_report"]
