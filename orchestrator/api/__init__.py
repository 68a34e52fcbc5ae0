"""The Python API behind `import gigarestore`: arrays in, arrays out, over the same runs as the
command line's.

May import every room of the orchestrator, and kernels and storage; only the commands and
`gigarestore.py` import it. Importing the package loads nothing.
"""
