"""storage/export."""
