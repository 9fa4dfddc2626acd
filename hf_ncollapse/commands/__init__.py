"""The commands of `hf-ncollapse`: `add` declares the options, `run` does it and returns the exit code."""
