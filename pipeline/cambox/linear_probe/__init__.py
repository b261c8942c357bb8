"""Labels are enough: a last layer trained on stored features (`cambox probe`)."""
