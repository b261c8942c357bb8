"""The figures of an output: ``cambox stats``."""
