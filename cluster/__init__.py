"""Whatever touches a terminal or a cluster: the command line, its commands, and what runs on nodes.

`cluster.cli` may import every room but `on_node`; nobody imports it but the drivers on nodes.
"""
