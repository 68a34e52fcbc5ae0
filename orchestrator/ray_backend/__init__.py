"""orchestrator/ray_backend."""
