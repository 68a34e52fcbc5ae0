"""orchestrator/tiling."""
