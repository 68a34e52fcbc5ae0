"""cluster/terminal."""
