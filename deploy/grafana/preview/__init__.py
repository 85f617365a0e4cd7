"""Pictures of the dashboards, made without Grafana."""
