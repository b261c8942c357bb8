"""``cambox evaluate``: an output against true boxes, by the field's protocols."""
