"""Grafana dashboards, made by a program: `make dashboards` writes them."""
