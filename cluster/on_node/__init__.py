"""cluster/on_node."""
