"""How well tokenizers suit texts: lengths, coverage, exactness, and what they cut apart, side by side.

>>> compare([load_tokenizer("tok.model")], [Path("hi.jsonl")])
"""

from recipes.data.tokenizer_report.compare import Comparison, compare

__all__ = ["Comparison", "compare"]
