"""The numbers that the column `split` of sequences.parquet holds."""

TRAIN = 0
VALIDATION = 1
TEST = 2
