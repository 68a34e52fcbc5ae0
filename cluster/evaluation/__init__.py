"""What a prior is worth on images it never saw, and the demonstration.

May import `training`, `terminal` and `orchestrator`, and no command.
"""
