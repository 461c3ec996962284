"""Many runs of one command: Hydra's multirun on clusters, and the report on its members."""
