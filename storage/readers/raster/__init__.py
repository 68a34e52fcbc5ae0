"""storage/readers/raster."""
