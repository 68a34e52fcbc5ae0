"""TIFF with its relatives OME-TIFF and GeoTIFF: tiles and strips by windows.

It may import readers.common and the modules at the root of storage.
"""
