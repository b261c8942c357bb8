"""``python -m pipeline.cli``, where ``cambox`` is not on the path."""

from __future__ import annotations

from pipeline.cli import main

if __name__ == "__main__":
    main()
