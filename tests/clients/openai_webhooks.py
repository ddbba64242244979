"""OpenAI's library as it manages webhook endpoints and verifies what they get. Prints what a user of the library sees."""

import json
import os
import sys
import urllib.request

import openai

client = openai.OpenAI(base_url=f"{os.environ['FOREMAN_URL']}/v1", api_key="none", max_retries=0)
webhooks = client.webhooks


def status(call):
    try:
        call()
    except openai.APIStatusError as error:
        return error.status_code
    return 200


def shown(id):
    """How Foreman's own routes show the endpoint."""
    with urllib.request.urlopen(f"{os.environ['FOREMAN_URL']}/webhooks/{id}") as answer:
        return json.load(answer)


def life(url, moved):
    created = webhooks.create(name="mine", url=url, event_types=["job.done", "job.failed"])
    id = created.id
    for _ in range(2):
        webhooks.create(name="another", url=url, event_types=["job.done"])
    return {
        "created": created,
        "retrieved": webhooks.retrieve(id),
        "listed": list(webhooks.list(limit=2)),
        "updated": webhooks.update(id, name="ours", url=moved, event_types=["job.queued"]),
        "rotated": webhooks.rotate_secret(id, keep_old_secret_active_for_24_hours=True),
        "kept": shown(id),
        "rotated_at_once": webhooks.rotate_secret(id),
        "dropped": shown(id),
        "tested": webhooks.test(id, event_type="job.queued"),
        "types": webhooks.event_types.list().data,
        "refused": [
            status(lambda: webhooks.create(name="bad", url=url, event_types=["batch.completed"])),
            status(lambda: webhooks.test(id, event_type="finished")),
            status(lambda: webhooks.update(id, url="http://10.0.0.1/")),
        ],
        "deleted": webhooks.delete(id),
        "missing": status(lambda: webhooks.retrieve(id)),
    }


def unwrap(*lines):
    """Whether the library says of each webhook what it should say."""
    said = []
    for line in map(json.loads, filter(None, lines)):
        try:
            webhooks.unwrap(line["body"], line["headers"], secret=line["secret"])
            said.append(line["is_good"])
        except openai.InvalidWebhookSignatureError:
            said.append(not line["is_good"])
    return said


def plain(value):
    return value.model_dump(exclude_unset=True)


part = {"life": life, "unwrap": unwrap}[sys.argv[1]]
print(json.dumps(part(*sys.stdin.read().split("\n")), default=plain))
