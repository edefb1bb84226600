"""`python -m autograd_geo` is the command `autograd-geo`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
