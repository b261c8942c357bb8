"""Files that people made of an output, back to rows, true boxes and counts."""
