"""Let `python -m cluster` be the same as `gigarestore`."""

from cluster.cli import main

main()
