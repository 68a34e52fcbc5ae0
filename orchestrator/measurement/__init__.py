"""orchestrator/measurement."""
