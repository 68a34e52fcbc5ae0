"""Readers: find a format, open a file, stage what has no windows, cache what was read.

Modules at its root may import every room below it; the rooms below never import the root.
"""
