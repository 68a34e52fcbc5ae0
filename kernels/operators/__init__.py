"""Degradation operators A, their inverses A+ and their compositions, one file per family.

May import torch and numpy, and nothing else of kernels.
"""
