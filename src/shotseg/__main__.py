"""``python -m shotseg`` is ``shotseg``."""

import sys

from shotseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
