"""What the loop around the network costs, on this machine.

May import `terminal`, `kernels`, `storage` and `orchestrator`, and no command.
"""
