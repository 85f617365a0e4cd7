"""A simulated NSLB and API Fabric over real TLS, with faults on request.

Owns the upstream's side of the interface page, down to its oddities. Refuses to import anything else of `gateway`, so
that a misreading of the interface can't hide in both. Each test may start one of its own.
"""

from gateway.simulator.calls import Call, Event
from gateway.simulator.certificates import Certificates, Pair
from gateway.simulator.command import serve
from gateway.simulator.faults import Fault
from gateway.simulator.simulator import APP_KEY, APP_SECRET, Simulator
from gateway.simulator.tokens import Holder
from gateway.simulator.wire import Received

__all__ = [
    "APP_KEY",
    "APP_SECRET",
    "Call",
    "Certificates",
    "Event",
    "Fault",
    "Holder",
    "Pair",
    "Received",
    "Simulator",
    "serve",
]
