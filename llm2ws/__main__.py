"""`python -m llm2ws`."""

from __future__ import annotations

import sys

from .command.cli import main

if __name__ == "__main__":
    sys.exit(main())
