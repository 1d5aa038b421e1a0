"""Tokenizers: SentencePiece models and Hugging Face directories behind one interface. `train` makes them."""

from recipes.data.tokenizer.base import TextTokenizer
from recipes.data.tokenizer.load import load_tokenizer

__all__ = ["TextTokenizer", "load_tokenizer"]
