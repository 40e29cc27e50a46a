"""`python -m oodattack.cli`: the command line."""

import sys

from oodattack.cli import main

if __name__ == "__main__":
    sys.exit(main())
