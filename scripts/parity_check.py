#!/usr/bin/env python3
"""Run ``xlm parity``, under the name that other projects call."""

import sys

from xlm.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["parity"]
    main()
