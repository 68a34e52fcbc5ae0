"""The reverse loop, the coefficients of its steps, the constraints and the zero-shot methods.

May import kernels.operators, kernels.denoisers, kernels.noise and kernels.schedule.
"""
