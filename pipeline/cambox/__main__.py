"""``python -m cambox``, where ``cambox`` is not on the path."""

from __future__ import annotations

from cambox.cli import main

if __name__ == "__main__":
    main()
