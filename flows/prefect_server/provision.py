"""What Discern needs on a Prefect server: a work pool with room for one run, and automations that
watch the runs.

Everything is compared before it is written: a second time changes nothing, and what a person has
chosen (the limit, an automation switched off or edited) stays. A variable on the server keeps what
was written, so that an automation which a person edited is distinguished from one that an
earlier Discern made. Import only where the server's address is set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    VariableCreate,
    VariableUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CancelFlowRun, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker
from pydantic import BaseModel

from flows import accuracy

DIED = "Discern: a run's process has died"
NEVER_STARTED = "Discern: a run never started"
NEVER_ENDED = "Discern: a cancelled run never ended"
WAITED = "Discern: a scheduled run waited too long"
FAILED = "Discern: a run failed"
FELL = "Discern: accuracy fell"
WATCHES = (DIED, NEVER_STARTED, NEVER_ENDED, WAITED, FAILED, FELL)

POOL = "discern"
WEBHOOK = "discern-notify"
# Four heartbeats (flows/prefect_server/settings.py). Checked every few seconds, a dead run is
# marked within five minutes.
SILENCE = timedelta(seconds=240)
# A nightly run that still waits for its slot when the next is near: that one does its work.
PATIENCE = timedelta(hours=20)
WRITTEN = "discern_automations"
NO_WEBHOOK = "none"

Step = tuple[str, str, str]  # what, 'made' | 'changed' | 'as it was', a sentence


def provision(flows: Sequence[str], slots: int | None, webhook: str | None) -> list[Step]:
    """Makes what is missing on the server that this process is set to use; returns what was done.

    Args:
        flows: names of the flows that are watched; others on the same server are left alone.
        slots: runs at a time in the pool; None: as it is, 1 when it is new.
        webhook: address that failures are posted to as JSON; None: as it is, 'none': no address.
    """
    with get_client(sync_client=True) as client:
        steps = [_pool(client, slots)]
        block, step = _webhook(client, webhook)
        steps.append(step)
        written = _written(client)
        steps += [_automation(client, wanted, written) for wanted in automations(flows, block)]
        _keep_written(client, written)
    return steps


def _pool(client: SyncPrefectClient, slots: int | None) -> Step:
    """The pool's own limit, not a tag's: a tag's slot outlives a run that was killed."""
    what = f"work pool {POOL}"
    try:
        pool = client.read_work_pool(POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        wanted = WorkPoolCreate(
            name=POOL,
            type="process",
            description="Discern: one run at a time for each GPU of the machine.",
            base_job_template=template,
            concurrency_limit=slots or 1,
        )
        client.create_work_pool(wanted)
        return what, "made", f"process workers, {_runs(slots or 1)} at a time"
    if slots is not None and pool.concurrency_limit != slots:
        client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=slots))
        return (
            what,
            "changed",
            f"{_runs(slots)} at a time, was {pool.concurrency_limit or 'unlimited'}",
        )
    text = (
        f"{_runs(pool.concurrency_limit)} at a time"
        if pool.concurrency_limit
        else "no limit: give --slots 1"
    )
    return what, "as it was", text


def _runs(count: int) -> str:
    return f"{count} run{'s' if count != 1 else ''}"


def _webhook(client: SyncPrefectClient, url: str | None) -> tuple[Any, Step]:
    """The block that notifications go through: any address that takes JSON (Slack, Mattermost,
    Teams, ntfy, one's own).
    """
    what = f"block {WEBHOOK}"
    try:
        present = client.read_block_document_by_name(
            WEBHOOK, "custom-webhook", include_secrets=True
        )
    except ObjectNotFound:
        present = None
    if url == NO_WEBHOOK:
        if present:
            client.delete_block_document(present.id)
        return None, (what, "removed" if present else "as it was", "no address for failures")
    if url is None or (present is not None and present.data.get("url") == url):
        text = (
            f"notifies {_host(str(present.data['url']))}"
            if present
            else "no address for failures: give --notify URL"
        )
        return present.id if present else None, (what, "as it was" if present else "not made", text)
    block = CustomWebhookNotificationBlock(
        name=WEBHOOK,
        url=url,
        method="POST",
        json_data={"text": "{{subject}}\n{{body}}", "title": "{{subject}}"},
    )
    made = block.save(WEBHOOK, overwrite=True)
    return made, (what, "changed" if present else "made", f"notifies {_host(url)}")


def _host(url: str) -> str:
    """The address without its path, which often is the secret."""
    return "/".join(url.split("/")[:3])


_RUNS = ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})
_SCHEDULED = ResourceSpecification(
    {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.auto-scheduled"}
)
_EACH = {"prefect.resource.id"}


def automations(flows: Sequence[str], webhook: Any) -> list[AutomationCore]:
    """The automations that Discern asks for."""
    mine = ResourceSpecification(
        {"prefect.resource.role": "flow", "prefect.resource.name": list(flows)}
    )
    return [
        _silence(
            DIED,
            "Marks a run without heartbeats as Crashed, which frees its slot. The next run "
            "continues by the store.",
            mine,
            {"prefect.flow-run.heartbeat"},
            _mark(StateType.CRASHED, "Its process has died: no heartbeat for four minutes."),
        ),
        _silence(
            NEVER_STARTED,
            "Marks a run that stays Pending as Crashed, which frees its slot.",
            mine,
            {
                "prefect.flow-run.Pending",
                "prefect.flow-run.Submitting",
                "prefect.flow-run.InfrastructurePending",
            },
            _mark(StateType.CRASHED, "It never started: its worker has gone away."),
        ),
        _silence(
            NEVER_ENDED,
            "Marks a run that stays Cancelling as Cancelled, which frees its slot: its worker is "
            "gone, or could not say so.",
            mine,
            {"prefect.flow-run.Cancelling"},
            _mark(StateType.CANCELLED, "No worker confirmed that its processes ended."),
        ),
        _silence(
            WAITED,
            "Cancels a scheduled run that is still Late after 20 hours, so that they do not pile "
            "up behind a long training.",
            [mine, _SCHEDULED],
            {"prefect.flow-run.Late"},
            CancelFlowRun(),
            PATIENCE,
        ),
        *_notifications(mine, webhook),
    ]


def _mark(state: StateType, message: str) -> ChangeFlowRunState:
    return ChangeFlowRunState(
        state=state, name=state.value.capitalize(), message=message, force=False
    )


def _silence(
    name: str,
    description: str,
    related: Any,
    after: set[str],
    action: Any,
    within: timedelta = SILENCE,
) -> AutomationCore:
    """Acts when nothing is heard of a run for some time after it was in a state."""
    trigger = EventTrigger(
        match=_RUNS,
        match_related=related,
        after=after,
        expect={"prefect.flow-run.*"},
        for_each=_EACH,
        posture=Posture.Proactive,
        threshold=1,
        within=within,
    )
    return AutomationCore(name=name, description=description, trigger=trigger, actions=[action])


def _notifications(mine: ResourceSpecification, webhook: Any) -> list[AutomationCore]:
    """The automations that notify people."""
    at_once: dict[str, Any] = {
        "for_each": _EACH,
        "posture": Posture.Reactive,
        "threshold": 1,
        "within": timedelta(0),
    }
    failed = {"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}
    recipes = ResourceSpecification({"prefect.resource.id": "discern.recipe.*"})
    subject = "Discern: {{ flow_run.name }} {{ flow_run.state.name }}"
    return [
        AutomationCore(
            name=FAILED,
            description="Notifies of a run that failed or crashed.",
            trigger=EventTrigger(match=_RUNS, match_related=mine, expect=failed, **at_once),
            actions=[_notify(webhook, subject, "{{ flow_run.state.message }}")],
        ),
        AutomationCore(
            name=FELL,
            description=(
                "Notifies when a run's features are clearly worse than those of the last run "
                "of the same recipe."
            ),
            trigger=EventTrigger(match=recipes, expect={accuracy.EVENT}, **at_once),
            actions=[_notify(webhook, "Discern: accuracy fell", "{{ event.payload.sentence }}")],
        ),
    ]


def _notify(webhook: Any, subject: str, body: str) -> SendNotification | DoNothing:
    """Without an address nothing is sent; the event feed shows that the automation fired."""
    if webhook is None:
        return DoNothing()
    return SendNotification(block_document_id=webhook, subject=subject, body=body)


def _automation(client: SyncPrefectClient, wanted: AutomationCore, written: dict[str, str]) -> Step:
    """Makes or mends one automation; `written` (name to the digest of what setup wrote last) is
    brought up to date.
    """
    what = f"automation {wanted.name!r}"
    found = client.read_automations_by_name(wanted.name)
    target = _digest(wanted)
    if not found:
        client.create_automation(wanted)
        written[wanted.name] = target
        return what, "made", wanted.description
    present = found[0]
    there = _digest(present)
    if there == target:
        written[wanted.name] = target
        return (
            what,
            "as it was",
            wanted.description if present.enabled else "switched off by a person, and left so",
        )
    if there != written.get(wanted.name):
        return (
            what,
            "kept",
            "edited by a person, and left so; to have Discern's own, delete it and set up again",
        )
    Automation(
        id=present.id, **wanted.model_copy(update={"enabled": present.enabled}).model_dump()
    ).update()
    written[wanted.name] = target
    return what, "changed", wanted.description


def _written(client: SyncPrefectClient) -> dict[str, str]:
    variable = client.read_variable_by_name(WRITTEN)
    return dict(variable.value) if variable and isinstance(variable.value, dict) else {}


def _keep_written(client: SyncPrefectClient, written: dict[str, str]) -> None:
    variable = client.read_variable_by_name(WRITTEN)
    if variable is None:
        client.create_variable(VariableCreate(name=WRITTEN, value=written))
    elif variable.value != written:
        client.update_variable(VariableUpdate(name=WRITTEN, value=written))


def _digest(automation: BaseModel) -> str:
    return hashlib.sha256(json.dumps(_compared(automation), sort_keys=True).encode()).hexdigest()[
        :16
    ]


def _compared(automation: BaseModel) -> Any:
    plain = automation.model_dump(mode="json", include={"description", "trigger", "actions"})
    plain["trigger"].pop("id", None)
    return {key: _sorted(value) for key, value in plain.items()}


def _sorted(value: Any) -> Any:
    """Sets arrive as lists in any order."""
    if isinstance(value, dict):
        return {key: _sorted(each) for key, each in value.items()}
    if isinstance(value, list | set | tuple):
        return sorted((_sorted(each) for each in value), key=repr)
    return value
