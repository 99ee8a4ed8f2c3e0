"""`python -m coentro.ctl` is coentroctl."""

import sys

from coentro.ctl.main import main

if __name__ == "__main__":
    sys.exit(main())
