"""What is counted as it happens, for Prometheus: one set of instruments to each orchestrator, none of them global."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_REQUEST_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_SUBMIT_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
_TICK_S: Final = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


class Instruments:
    """Counters and histograms that begin at zero with every start of the orchestrator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "saeforge_http_requests",
            "HTTP requests answered, by method, route template and status code.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "saeforge_http_request_duration_seconds",
            "Time to answer an HTTP request, streamed body included.",
            ("method", "route"),
            buckets=_REQUEST_S,
            registry=self.registry,
        )
        self.submit_seconds = Histogram(
            "saeforge_submit_duration_seconds",
            "Time from a submit's arrival to its durable acceptance.",
            buckets=_SUBMIT_S,
            registry=self.registry,
        )
        self.viewers = Gauge(
            "saeforge_websocket_viewers",
            "WebSockets open now, by route template.",
            ("route",),
            registry=self.registry,
        )
        self.sent_bytes = Counter(
            "saeforge_websocket_sent_bytes",
            "Bytes of messages sent to viewers, by route template.",
            ("route",),
            registry=self.registry,
        )
        self.tick_seconds = Histogram(
            "saeforge_scheduler_tick_duration_seconds",
            "Time of one pass of the scheduler: looking at the machine, planning, and beginning attempts.",
            buckets=_TICK_S,
            registry=self.registry,
        )
