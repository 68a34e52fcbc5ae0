"""cluster/commands."""
