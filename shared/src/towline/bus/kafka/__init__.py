"""The bus on Apache Kafka. This folder alone imports the Kafka client."""

from towline.bus.kafka.bus import KafkaBus

__all__ = ["KafkaBus"]
