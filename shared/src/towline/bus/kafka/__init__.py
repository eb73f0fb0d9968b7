"""The bus on Apache Kafka. This folder alone imports the Kafka client."""

from towline.bus.kafka.bus import KafkaBus
from towline.bus.kafka.client_log import calm

__all__ = ["KafkaBus"]

calm()
