"""What noise an image carries: its level estimated, and counts or speckle brought to unit noise.

May import numpy, and nothing else of kernels.
"""
