"""cluster/batches."""
