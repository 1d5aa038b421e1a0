"""Hugging Face directories: one table of names per family, used in both directions."""
