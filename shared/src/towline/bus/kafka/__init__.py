"""The bus on Apache Kafka. This folder alone imports the Kafka client."""

from towline.bus.kafka.bus import KafkaBus
from towline.bus.kafka.client_log import calm
from towline.bus.kafka.internals import make_no_topics
from towline.bus.kafka.readable import read_every_name

__all__ = ["KafkaBus"]

calm()
make_no_topics()
read_every_name()
