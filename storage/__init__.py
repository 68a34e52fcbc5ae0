"""Images on disk: read any format by windows, keep what a run writes, publish and export.

It imports no other package of ours, never torch or ray; modules at its root import each other only.
"""
