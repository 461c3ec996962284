"""From the configuration of a run to a job on a cluster: one plan, and a backend for every kind of cluster."""
