"""What may run, on whom, and when its cells may go: pure state machines, without clock or files.

May import: tiling.
"""
