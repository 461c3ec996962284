"""Ray, vLLM and DeepSpeed: the processes of a run, and nothing about configuration files.

Data flows through the folders: `controller` asks `rollout` for groups, `verifier` for verdicts, `learner` for an
update, and `weights` moves the new policy back to `rollout`. `warm_start` makes the small model that the laptop run
starts from.
"""

import os

# Ray reads this once, when it is first imported: its processes then talk to holders of the run's token only.
os.environ.setdefault("RAY_AUTH_MODE", "token")
# Ray's word for "this host only": all its servers then listen on the loopback device. Asking for the address 127.0.0.1
# is not enough, because Ray replaces it by one that others can reach. A Ray that is there already may be on several.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1" if os.environ.get("RAY_ADDRESS") else "0")
# Libraries import DeepSpeed for their own ends; where it has to choose a device it says so on the terminal. Learners
# are told theirs when they are started.
os.environ.setdefault("DS_ACCELERATOR", "cpu")
