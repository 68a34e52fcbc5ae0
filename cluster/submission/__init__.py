"""A run that a cluster is to do: settings, handle, what every backend can, handing it in.

May import `options`; `ray_jobs` is the only module here that imports Ray.
"""
