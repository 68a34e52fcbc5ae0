"""Many images as one run: manifest, folder, shares, and how far they are.

May import `options`, `terminal` and `orchestrator.run`.
"""
