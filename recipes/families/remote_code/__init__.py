"""Files that are copied into exported directories: they import neither this project nor megatron-core."""
