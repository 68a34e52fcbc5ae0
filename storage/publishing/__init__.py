"""storage/publishing."""
