"""The first function: it greets, and counts the calls that its worker has answered."""

import platform

calls = 0


def main_handler(event, context):
    global calls
    calls += 1
    return {
        "message": "hello, " + event.get("name", "you"),
        "python": platform.python_version(),
        "calls_of_this_worker": calls,
        "request_id": context.get("request_id") if isinstance(context, dict) else getattr(context, "request_id", None),
    }
