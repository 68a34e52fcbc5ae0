"""orchestrator/scheduling."""
