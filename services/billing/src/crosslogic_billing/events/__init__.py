"""Usage events to Kafka."""
