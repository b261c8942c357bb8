"""Built-in pictures that tell whether other libraries make other rows of the same recipe."""
