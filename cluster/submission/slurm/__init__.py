"""SLURM as a backend: the sbatch script, and what its programs say.

May import `submission` and `options`.
"""
