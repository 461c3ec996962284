"""Slurm: a batch script that starts Ray on the nodes of its allocation and the run on the first of them."""
