"""storage/readers/tiff."""
