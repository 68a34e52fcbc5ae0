"""cluster/doctor."""
