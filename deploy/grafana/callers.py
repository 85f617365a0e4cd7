"""*Tokens and callers*: whose credentials are good for how long, and who calls."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.colours import BAD, CALM, CODES, FAINT, GOOD, WARN
from deploy.grafana.panels import QUARTER, THIRD, bars, lines, number, page
from deploy.grafana.queries import chosen, events, increase, or_none, quantiles, rate, total

_NEAR: Final = 600
_HALF_LIFE: Final = 1800
_LIFE: Final = 3600
_FAILED: Final = 'result="failure"'


def callers() -> Dashboard:
    """The dashboard."""
    own, whose = 'account=~"$account"', 'service=~"$service"'
    left = f"min by (account) ({chosen('gateway_token_expiry_timestamp_seconds', own)}) - time()"
    steps = ((None, BAD), (_NEAR, WARN), (_HALF_LIFE - _NEAR, GOOD))
    refreshes, authentication = "gateway_token_refreshes_total", "gateway_authentication_total"
    refused = total("", rate(authentication, 'result!="accepted"'))
    calls = increase("gateway_requests_total", whose, 'service!="-"')
    return page(
        "dial-gateway-callers",
        "Dial gateway / Tokens and callers",
        "Tokens: how long they last, how they are renewed. Callers: who they are, what they ask for, what is refused.",
        [
            (
                "Now",
                [
                    number(
                        "First token to end",
                        "Time until the first of all tokens ends; each is renewed at half of its life.",
                        "s",
                        f"min({chosen('gateway_token_expiry_timestamp_seconds', own)}) - time()",
                        width=QUARTER,
                        steps=steps,
                        decimals=0,
                        runbook="DialGatewayTokenNearExpiry",
                    ),
                    number(
                        "Failed refreshes",
                        "Attempts to obtain a token that failed, in the time shown.",
                        "short",
                        total("", increase(refreshes, own, _FAILED)) + " or vector(0)",
                        width=QUARTER,
                        steps=((None, GOOD), (0.5, WARN), (10, BAD)),
                        decimals=0,
                        runbook="DialGatewayTokenNotRenewed",
                    ),
                    number(
                        "Refused credentials",
                        "Part of the attempts to authenticate that failed.",
                        "percentunit",
                        f"({refused} or vector(0)) / ({total('', rate(authentication))} > 0)",
                        width=QUARTER,
                        steps=((None, GOOD), (0.01, WARN), (0.2, BAD)),
                        decimals=1,
                        runbook="DialGatewayKeysRefused",
                    ),
                    number(
                        "Services that call",
                        "Different services with requests in the time shown.",
                        "short",
                        f"count({total('service', calls)} > 0)",
                        width=QUARTER,
                    ),
                ],
            ),
            (
                "Tokens",
                [
                    bars(
                        "Tokens that end first",
                        "Six of them. None for a token of a file or variable, whose age nobody knows.",
                        "s",
                        (f"sort(bottomk(6, {left}))", "{{account}}"),
                        width=THIRD,
                        steps=steps,
                        greatest=_LIFE,
                        runbook="DialGatewayTokenNearExpiry",
                    ),
                    lines(
                        "Life of tokens",
                        "A saw whose teeth are half a life long: each rise is a new generation.",
                        "s",
                        [(left, "{{account}}")],
                        width=16,
                        filled=False,
                        marks=[(_NEAR, BAD)],
                        runbook="DialGatewayTokenNearExpiry",
                    ),
                    lines(
                        "New generations by trigger",
                        "`early`: half of its life was over; `refused`: by NSLB; `in_band`: it came with an answer.",
                        "short",
                        [
                            (
                                total("trigger", events(refreshes, own, 'result="success"')),
                                "{{trigger}}",
                            )
                        ],
                        width=THIRD,
                        bars=True,
                        stacked=True,
                        colours={"early": GOOD, "start": CALM, "expired": BAD, "refused": WARN},
                    ),
                    lines(
                        "Failed refreshes by account",
                        "Calls go on while the present token lives.",
                        "short",
                        [
                            (
                                or_none(total("account", events(refreshes, own, _FAILED)), "account"),
                                "{{account}}",
                            )
                        ],
                        width=THIRD,
                        colours={"none": GOOD},
                        hue=BAD,
                        bars=True,
                        stacked=True,
                        runbook="DialGatewayTokenNotRenewed",
                        logs='event="token.refresh_failed" | account="${__field.labels.account}"',
                    ),
                    lines(
                        "Duration of refreshes",
                        "How long the API Fabric took, or the failure.",
                        "s",
                        quantiles("gateway_token_refresh_duration_seconds"),
                        width=THIRD,
                    ),
                ],
            ),
            (
                "Callers",
                [
                    lines(
                        "Requests by service",
                        "`-` are requests without a credential that is known.",
                        "reqps",
                        [(total("service", rate("gateway_requests_total", whose)), "{{service}}")],
                        stacked=True,
                    ),
                    lines(
                        "Refusals by code",
                        "What callers were told instead of an answer of the contact centre.",
                        "reqps",
                        [
                            (
                                or_none(total("code", rate("gateway_requests_total", whose, 'code!="ok"')), "code"),
                                "{{code}}",
                            )
                        ],
                        stacked=True,
                        colours={"none": GOOD, **CODES},
                        hue=CALM,
                        bars=True,
                        logs='code="${__field.labels.code}"',
                    ),
                    lines(
                        "Authentication",
                        "`unknown` and `expired` are keys; the others are requests without one credential to look at.",
                        "reqps",
                        [(total("result", rate(authentication)), "{{result}}")],
                        bars=True,
                        stacked=True,
                        colours={"accepted": GOOD, "unknown": BAD, "expired": WARN, "missing": FAINT},
                        runbook="DialGatewayKeysRefused",
                    ),
                    lines(
                        "Accounts",
                        "Dials by the account they were made with.",
                        "reqps",
                        [
                            (
                                total("account", rate("gateway_upstream_requests_total", own, 'operation="create"')),
                                "{{account}}",
                            )
                        ],
                        stacked=True,
                    ),
                ],
            ),
        ],
    )
