"""Whatever touches a terminal or a cluster: the command line, progress, the demonstration."""
