"""Every night: the input of the day, a run, its verification, the report, and ``latest``."""
