"""The whole of it as processes on one machine: two gateways on one Redis, a contact centre, callers, Prometheus."""
