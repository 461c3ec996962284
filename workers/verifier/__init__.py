"""The verifier: typed verdicts on math and code from processes that may be killed.

A sample goes down these files and a verdict comes back: `pool` (actors on the cluster's nodes, equal answers once) or
`remote` (a service) -> `host` (one actor) -> `supervisor` (deadlines, retries) -> `fork_server` and `worker` (one
process) -> `scorer` (judge and reward) -> `delta.rewards`, or `code` (sandboxes).
"""

from workers.verifier.functions import score_code, score_math

__all__ = ["score_code", "score_math"]
