"""`python -m weigh`."""

import sys

from weigh.cli.app import main

sys.exit(main())
