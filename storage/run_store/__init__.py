"""storage/run_store."""
