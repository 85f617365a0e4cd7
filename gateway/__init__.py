"""The dial gateway: an authenticating reverse proxy that places click-to-dial calls through NSLB.

This package module owns the version and nothing else: importing it starts nothing and loads nothing.
"""

__version__ = "0.1.0"
