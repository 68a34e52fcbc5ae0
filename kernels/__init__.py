"""The mathematics of gigarestore: schedules, operators, constraints, the sampler and its denoisers.

May import torch, numpy and safetensors; knows no files but weights, no tiles on disk, no clusters.
Importing the package imports none of them; import the module that is wanted.
"""

__version__ = "0.2.0"
