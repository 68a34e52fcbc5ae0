"""KubeRay as a backend: the RayJob manifest, its rules, and kubectl.

May import `submission` and `options`.
"""
