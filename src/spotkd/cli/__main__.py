"""``python -m spotkd.cli``: as ``python -m spotkd``."""

import sys

from . import main

sys.exit(main())
