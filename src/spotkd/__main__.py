"""``python -m spotkd`` is ``spotkd``; so ``torchrun -m spotkd`` works."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
