"""Runs in a sandbox of its own, away from every program: executes tests whose functions live in the program's process.

The program may be hostile: what it sends is decoded with suspicion. The modules are sent by the channel
(`sandbox.EXAMINER`); this file is not among them.
"""
