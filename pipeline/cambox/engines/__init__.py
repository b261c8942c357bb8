"""Where the work runs: in this process, or on the actors of a Ray cluster. No row differs by it."""
