"""What commands do with a submitted run: choose its backend, look at it, submit it again.

May import `submission` with its backends, `batches`, `options` and `terminal`.
"""
