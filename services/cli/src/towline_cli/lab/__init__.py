"""The lab: the real parts (Kubernetes, registry, Kafka) that Towline installs and starts on a user's machine."""
