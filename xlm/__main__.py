"""``python -m xlm``: the command ``xlm``."""

from __future__ import annotations

from xlm.cli import main

if __name__ == "__main__":
    main()
