"""How far a run is and how fast: sums over its events and its journals.

May import: planning, job, tiling, the ground floor and storage.
"""
