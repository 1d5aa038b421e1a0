"""Cleaning of raw text on datatrove: language, quality, duplicates, personal data, lists, benchmarks."""
