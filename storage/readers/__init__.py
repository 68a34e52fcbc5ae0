"""storage/readers."""
