"""Puts the notifier together: settings and host → service."""

from __future__ import annotations

from functools import partial

from towline import flow
from towline.delivery.model import Service
from towline.errors import BadInput
from towline.events import NoticeRendered
from towline.host import Host
from towline_notifier.channels.table import channel, utc_now
from towline_notifier.decide import decide, forward
from towline_notifier.deliver import Delivery
from towline_notifier.messages import ChangeTitled, Deliver, NoticeDelivered, NoticeDrafted
from towline_notifier.routing import Policy
from towline_notifier.settings import NotifierSettings
from towline_notifier.state import NotifierState
from towline_notifier.transport import client


def build(settings: NotifierSettings, host: Host) -> Service[NotifierState]:
    """Raises BadInput when a secret's reference or the `ca_file` leads nowhere."""
    del host  # the notifier keeps nothing beside its log
    try:
        http = client(settings.ca_file)
    except OSError as error:
        raise BadInput(f"notifier.ca_file: {settings.ca_file} is not readable as PEM: {error.strerror}") from None
    channels = {name: channel(name, each, http) for name, each in settings.channels.items()}
    return Service(
        name=flow.NOTIFIER,
        state=NotifierState,
        decide=partial(decide, Policy(settings)),
        effects={Deliver: Delivery(channels, utc_now)},
        inbox=(NoticeDrafted, ChangeTitled, NoticeDelivered),
        forwards={event: forward for event in flow.consumed_by(flow.NOTIFIER) if event is not NoticeRendered},
        pools={"channel": 1},
        close=http.aclose,
    )
