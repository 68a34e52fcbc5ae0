"""What people may say: options, arguments and exit codes, each stated once.

May import `orchestrator.job`, and no other room of `cluster`.
"""
