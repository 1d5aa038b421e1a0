"""What the benchmarks measure; their command lines are one floor up, without the engine's imports."""
