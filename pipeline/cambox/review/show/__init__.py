"""One sample of an output: its picture with boxes and maps, its row, its recipe."""
