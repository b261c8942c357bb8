"""``cambox verify``: whether an output keeps its promise."""
