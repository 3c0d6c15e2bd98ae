"""The embedded stack: Prefect, MLflow, an S3 server and Ray on this machine's loopback, under one directory.

`up` starts what is not healthy, `down` ends what belongs to this home and nothing else, `status` probes, and
`environment` is what a client needs to reach the servers. With the endpoints of a cluster in the environment
(RINGFLOW_PROFILE=cluster, or all of them set) nothing is started and `environment` only checks that none is missing.
"""

from infra.stack.home import home_directory
from infra.stack.profile import environment, profile
from infra.stack.supervisor import ServiceStatus, StackState, down, status, up

__all__ = ["ServiceStatus", "StackState", "down", "environment", "home_directory", "profile", "status", "up"]
