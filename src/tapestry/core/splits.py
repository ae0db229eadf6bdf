"""The values of the column `split` of sequences.parquet."""

TRAIN = 0
VALIDATION = 1
TEST = 2

NAMES = ("training", "validation", "test")
"""Of the splits, for messages: `NAMES[TEST]` is "test"."""
