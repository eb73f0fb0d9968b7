"""The lab: the real parts (Kubernetes, registry, Kafka, image builder) that Towline installs and starts on a machine.

`ensure` installs, `plan` says what that would change, an `Instance` runs parts under a name until it is removed.
Standard library and Rich only, so that it can be used before anything else is installed.
"""

from towline_cli.lab.cache import Cache
from towline_cli.lab.errors import AlreadyRunning, LabError
from towline_cli.lab.install import ALL, Part, ensure, plan
from towline_cli.lab.instance import Instance, names, sweep
from towline_cli.lab.kafka_listeners import KafkaListeners
from towline_cli.lab.processes import Started
from towline_cli.lab.progress import PlainProgress, Progress, RichProgress, Silent, Step, progress_on

__all__ = [
    "ALL",
    "AlreadyRunning",
    "Cache",
    "Instance",
    "KafkaListeners",
    "LabError",
    "Part",
    "PlainProgress",
    "Progress",
    "RichProgress",
    "Silent",
    "Started",
    "Step",
    "ensure",
    "names",
    "plan",
    "progress_on",
    "sweep",
]
