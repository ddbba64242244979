"""Runs named calls of a client and prints what its user sees, as one JSON document.

    python3 SCRIPT URL KEY SECONDS [--together] NAME...

Times and ids are blanked, because they differ between two runs of one call. Must never hide anything else.
"""

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor

_, URL, KEY, SECONDS, *NAMES = sys.argv
SECONDS = float(SECONDS)

DIFFERS = {
    "created_at", "created", "completed_at", "id", "item_id", "request_id", "total_duration", "load_duration",
    "prompt_eval_duration", "eval_duration", "expires_at", "call_id",
}


def plain(value):
    """The value as JSON, with the name of each class."""
    if isinstance(value, dict):
        return {key: None if key in DIFFERS else plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "model_dump"):
        return {"class": type(value).__name__, "fields": plain(value.model_dump(warnings=False))}
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return f"{type(value).__name__} {value}"


def seen(call):
    try:
        return {"answer": plain(call())}
    except Exception as error:
        # Anthropic's library shows the whole body.
        message = re.sub(r"'request_id': '[^']+'", "'request_id': ''", str(error))
        return {"error": {"class": type(error).__name__, "status": getattr(error, "status_code", None), "message": message}}


def run(calls):
    """Runs the calls that the command line names, one after the other or all of them together."""
    together = "--together" in NAMES
    names = [name for name in NAMES if name != "--together"] or list(calls)
    with ThreadPoolExecutor(len(names) if together else 1) as threads:
        print(json.dumps(dict(zip(names, threads.map(lambda name: seen(calls[name]), names)))))
