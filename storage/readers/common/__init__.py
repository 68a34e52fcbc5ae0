"""What readers share: sample conversion, orientation, staging blocks, JPEG markers.

It imports the modules at the root of storage and no other room; it knows no format's reader.
"""
