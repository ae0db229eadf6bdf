"""Tapestry: reproducible cross-domain sequential recommendation."""

import os

# Waiting OpenMP threads spin: by default so long that training slows tenfold once another process wants a core.
# This little costs a tenth on an idle machine. Read when torch is loaded, so set before a module of ours loads it.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
