"""The commands, one file each: they read options, call the rooms below and print.

May import every room but `on_node`; `cluster.cli` registers them.
"""
