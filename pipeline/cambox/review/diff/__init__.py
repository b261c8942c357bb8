"""``cambox diff``: what changed between two outputs."""
