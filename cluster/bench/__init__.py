"""cluster/bench."""
