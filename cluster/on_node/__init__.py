"""What runs on the nodes of a cluster: launcher, driver and entrypoint, each started as a program.

May import `storage`, `submission`, `batches`, `options` and `cluster.cli`; nobody imports it.
"""
