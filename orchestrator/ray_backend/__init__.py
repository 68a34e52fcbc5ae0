"""The executor over Ray actors; the only place of orchestrator that imports ray.

May import: run, monitoring, worker, scheduling, job, tiling, the ground floor and kernels.
"""
