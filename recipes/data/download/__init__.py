"""Download corpora as JSONL shards with their provenance."""
