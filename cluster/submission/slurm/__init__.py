"""cluster/submission/slurm."""
