"""What a webhook is sent."""

import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args
from uuid import uuid4

from orchestrator.courier import TELLABLE, body_of, signature
from orchestrator.store.webhooks import Told
from worker_image.contract.events import Event

GUIDE = Path(__file__).parents[3] / "docs" / "webhooks.md"
SECRET = "whsec_" + "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IQ=="


def documented_check() -> Callable[[str, Mapping[str, str], bytes], bool]:
    [code] = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    names: dict[str, Callable[[str, Mapping[str, str], bytes], bool]] = {}
    exec(code, names)
    return names["is_ours"]


def headers(body: bytes, timestamp: int) -> dict[str, str]:
    return {
        "webhook-id": "1-2",
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(SECRET, "1-2", timestamp, body),
    }


def test_the_documented_check_takes_what_is_sent_and_nothing_else() -> None:
    is_ours, now = documented_check(), int(time.time())
    good = headers(b"{}", now)
    assert is_ours(SECRET, good, b"{}")
    assert not is_ours(SECRET, good, b"{ }")
    assert not is_ours("whsec_b3RoZXI=", good, b"{}")
    assert not is_ours(SECRET, good | {"webhook-id": "other"}, b"{}")
    assert not is_ours(SECRET, headers(b"{}", now - 400), b"{}")


def test_the_signature_is_that_of_the_standard() -> None:
    # The example of the specification of Standard Webhooks.
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == expected


def test_the_same_event_is_the_same_bytes_at_every_try() -> None:
    told = Told(
        id=7,
        type="status_changed",
        ts=datetime.fromtimestamp(1, UTC),
        job_id=uuid4(),
        attempt=None,
        seq=None,
        data={"from": "running", "to": "completed"},
        job_name="mine",
        job_type="train_sae",
        job_owner="ada",
        job_tags=("a",),
    )
    assert body_of(told) == body_of(told)
    assert json.loads(body_of(told))["name"] == "training:completed"


def test_every_event_of_a_worker_but_the_flood_of_figures_can_be_told() -> None:
    of_workers = {model.model_fields["type"].default for model in get_args(get_args(Event)[0])}
    assert of_workers - TELLABLE == {"metrics", "progress"}
