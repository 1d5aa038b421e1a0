"""A generated English-Hindi corpus about an invented world, with a benchmark of held-out questions."""
