"""PNG, JPEG, JPEG 2000 and PNM: formats that are read from their beginning.

It may import readers.common and the modules at the root of storage.
"""
