"""Checks of this machine and of a cluster's nodes.

May import `orchestrator.ray_backend` and `storage`, and no other room of `cluster`.
"""
