"""orchestrator/monitoring."""
