"""Downloading corpora as JSONL shards with their provenance."""
