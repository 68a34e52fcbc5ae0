"""Export a published image: tiled TIFF (OME-TIFF, GeoTIFF), PNG or JPEG.

It may import zarr_format and the modules at the root of storage.
"""
