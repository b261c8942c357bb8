"""The recipes, also by name: a package, so that an installed cambox has them at hand."""
