"""The mathematics of gigarestore: schedules, operators, constraints, the sampler and its denoisers.

Needs torch and numpy only and knows nothing of files, tiles on disk or clusters. Importing the
package imports neither; import the module that is wanted.
"""

__version__ = "0.1.0"
