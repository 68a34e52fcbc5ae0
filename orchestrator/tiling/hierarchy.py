"""The ratio between two restoration levels."""

# HiR, Eq. 12: a level has half the pixels of the finer one along each axis.
FACTOR = 2
