"""Tapestry: reproducible cross-domain sequential recommendation."""

import os

from tapestry.core.cpu import make_portable

# Read when torch is loaded, so set before a module of ours loads it.
make_portable()
# Waiting OpenMP threads spin: by default so long that training slows tenfold once another process wants a core.
# This little costs a tenth on an idle machine.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
