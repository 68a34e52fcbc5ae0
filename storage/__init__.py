"""Read images by windows, keep a run's cells and journal, and publish the result; no torch, no Ray."""
