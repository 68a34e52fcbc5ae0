"""cluster/options."""
