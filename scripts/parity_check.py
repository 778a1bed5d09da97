#!/usr/bin/env python3
"""The parity check under the name that other projects call it by; it is ``xlm parity``."""

import sys

from xlm.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["parity"]
    main()
