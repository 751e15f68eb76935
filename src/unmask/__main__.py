"""`python -m unmask`: see `unmask.cli`."""

import sys

from unmask.cli import main

sys.exit(main())
