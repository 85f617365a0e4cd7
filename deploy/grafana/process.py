"""*Process*: what each gateway costs, and what it depends on besides NSLB."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.colours import BAD, CALM, GOOD, WARN
from deploy.grafana.panels import QUARTER, THIRD, lines, number, page, rows
from deploy.grafana.queries import chosen, events, increase, or_none, quantile, rate, total

_EACH = "{{instance}}"


def process() -> Dashboard:
    """The dashboard."""
    return page(
        "dial-gateway-process",
        "Dial gateway / Process",
        "Each gateway: CPU, memory, event loop, descriptors, store, configuration, log.",
        [
            (
                "Now",
                [
                    number(
                        "Longest lag",
                        "The longest that any event loop was late in the last 15 seconds.",
                        "s",
                        f"max({chosen('gateway_event_loop_lag_seconds')})",
                        width=QUARTER,
                        steps=((None, GOOD), (0.1, WARN), (0.5, BAD)),
                        runbook="DialGatewayLoopLate",
                    ),
                    number(
                        "Stores that answer",
                        "Part of the gateways that reach their store.",
                        "percentunit",
                        f"avg({chosen('gateway_store_available')})",
                        width=QUARTER,
                        steps=((None, BAD), (1, GOOD)),
                        decimals=0,
                        runbook="DialGatewayStoreUnavailable",
                    ),
                    number(
                        "Configurations in force",
                        "Part of the gateways whose configuration is what its files say.",
                        "percentunit",
                        f"avg({chosen('gateway_config_last_reload_successful')})",
                        width=QUARTER,
                        steps=((None, BAD), (1, GOOD)),
                        decimals=0,
                        runbook="DialGatewayReloadFails",
                    ),
                    number(
                        "Lines of the log lost",
                        "In the time shown. Nobody took the output in time.",
                        "short",
                        total("", increase("gateway_log_lines_lost_total")),
                        width=QUARTER,
                        steps=((None, GOOD), (1, BAD)),
                        decimals=0,
                        runbook="DialGatewayLogLinesLost",
                    ),
                ],
            ),
            (
                "The process",
                [
                    lines(
                        "CPU",
                        "Processors in use. One thread does the work: at 1 it has no more to give.",
                        "short",
                        [(rate("gateway_process_cpu_seconds_total"), _EACH)],
                        marks=[(0.8, WARN)],
                        runbook="DialGatewayLoopLate",
                    ),
                    lines(
                        "Memory",
                        "Resident.",
                        "bytes",
                        [(chosen("gateway_process_resident_memory_bytes"), _EACH)],
                    ),
                    lines(
                        "Event loop lag",
                        "The longest that it was late in the last 15 seconds: every request waited for as long.",
                        "s",
                        [(chosen("gateway_event_loop_lag_seconds"), _EACH)],
                        marks=[(0.5, BAD)],
                        runbook="DialGatewayLoopLate",
                    ),
                    lines(
                        "Descriptors",
                        "Part of those that the process may have.",
                        "percentunit",
                        [(f"{chosen('gateway_process_open_fds')} / {chosen('gateway_process_max_fds')}", _EACH)],
                        marks=[(0.8, BAD)],
                        runbook="DialGatewayDescriptorsShort",
                    ),
                ],
            ),
            (
                "The store",
                [
                    lines(
                        "Store reached",
                        "1 while a gateway reaches its store.",
                        "short",
                        [(chosen("gateway_store_available"), _EACH)],
                        width=THIRD,
                        runbook="DialGatewayStoreUnavailable",
                    ),
                    lines(
                        "Operations by result",
                        "`refused`: another gateway was first, which is what the store is for.",
                        "ops",
                        [(total("result", rate("gateway_store_operations_total")), "{{result}}")],
                        width=THIRD,
                        bars=True,
                        stacked=True,
                        colours={"success": GOOD, "refused": CALM, "unavailable": BAD},
                        runbook="DialGatewayStoreUnavailable",
                    ),
                    lines(
                        "Duration by operation, p99",
                        "A dial with a key waits for two writes.",
                        "s",
                        [(quantile(0.99, "gateway_store_duration_seconds", "operation"), "{{operation}}")],
                        width=THIRD,
                    ),
                ],
            ),
            (
                "What runs",
                [
                    lines(
                        "Time since the start",
                        "A fall is a restart.",
                        "s",
                        [(f"time() - {chosen('gateway_process_start_time_seconds')}", _EACH)],
                        width=THIRD,
                        runbook="DialGatewayRestarting",
                    ),
                    lines(
                        "Time since the configuration was loaded",
                        "A fall is a reload.",
                        "s",
                        [(f"time() - {chosen('gateway_config_last_success_timestamp_seconds')}", _EACH)],
                        width=THIRD,
                        runbook="DialGatewayReloadFails",
                    ),
                    lines(
                        "Reloads",
                        "Of the configuration, or of a file that it names.",
                        "short",
                        [
                            (
                                or_none(total("result", events("gateway_config_reloads_total")), "result"),
                                "{{result}}",
                            )
                        ],
                        width=THIRD,
                        bars=True,
                        colours={"failure": BAD, "success": GOOD},
                        runbook="DialGatewayReloadFails",
                    ),
                    rows(
                        "Versions",
                        "Which version runs where.",
                        (chosen("gateway_build_info"), ""),
                        ["Time", "Value", "__name__"],
                        width=24,
                    ),
                ],
            ),
        ],
    )
