"""``python -m amct_tensorflow_cli``."""

import sys

from amct_tensorflow_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
