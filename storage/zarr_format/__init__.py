"""storage/zarr_format."""
