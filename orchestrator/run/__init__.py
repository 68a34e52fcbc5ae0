"""orchestrator/run."""
