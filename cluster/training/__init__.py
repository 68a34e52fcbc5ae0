"""One's own images as training crops, and the card of the prior made from them.

May import `kernels.training`, `storage.readers` and `orchestrator.job`, and no command.
"""
