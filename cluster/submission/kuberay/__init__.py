"""cluster/submission/kuberay."""
