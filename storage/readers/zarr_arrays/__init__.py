"""storage/readers/zarr_arrays."""
