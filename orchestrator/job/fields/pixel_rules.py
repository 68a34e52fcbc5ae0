"""Which rules decide the pixels of a job: a run that was begun goes on under its own rules.

1  until 0.1: samples without data stand in as black, every group of bands draws the same noise,
   a band that fills several channels is denoised at its own level, clipping may move a mean
2  samples without data constrain nothing; each group of bands draws noise of its own; noise that
   is the same in all channels is told as that; black and white keep the means of cells;
   estimates go as far beyond black and white as exact measurements; inpainting begins with a
   spline; a mask is known from seven eighths of white
"""

from __future__ import annotations

FIRST = 1
"""What a job file that names no rules was begun under."""
CURRENT = 2
"""What a new job is restored under."""
