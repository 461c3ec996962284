"""Runs inside the sandbox, in the process of the program: executes it and serves calls of its functions.

Nothing here is trusted once the program has started, because the program can change any of it. What it answers is
decoded with suspicion in `examiner` and judged elsewhere. The modules import next to nothing, not even `typing`: their
start is most of what a verdict costs. They are sent by the channel (`sandbox.CANDIDATE`); this file is not among them.
"""
