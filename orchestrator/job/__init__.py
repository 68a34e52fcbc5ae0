"""orchestrator/job."""
