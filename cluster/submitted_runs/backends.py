"""Which backend a setting or a handle means; only the one that is meant is loaded."""

from __future__ import annotations

from cluster.submission.backend import Backend


def backend(name: str) -> Backend:
    """Return the backend of a setting (slurm, ray, kuberay) or of a handle (k8s)."""
    if name == "slurm":
        from cluster.submission.slurm.slurm_client import SlurmBackend

        return SlurmBackend()
    if name == "ray":
        from cluster.submission.ray_jobs import RayJobsBackend

        return RayJobsBackend()
    from cluster.submission.kuberay.kuberay_client import KubeRayBackend

    return KubeRayBackend()
