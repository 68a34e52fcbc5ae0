"""Train a prior of the built-in family: drawn images, recipe, trainer, prior file, command line.

May import kernels.denoisers and kernels.operators.elementary; nothing that restores imports it.
"""
