"""Ray: connecting with a deadline, groups of SPMD workers, and groups kept warm between stages."""

import os

# Ray reads this when it is imported. Without it a local Ray resolves 127.0.0.1 to the machine's outer address and
# listens there; a cluster named by RAY_ADDRESS has its own addresses and must not be told otherwise.
if not os.environ.get("RAY_ADDRESS"):
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
