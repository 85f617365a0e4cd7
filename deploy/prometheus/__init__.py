"""What Prometheus is to record, and to wake somebody for."""
