"""The REST interface (DESIGN section 8): Falcon resources, and nothing that a second front door could not share.

app ── routes ── resources ── Calls, FunctionCache, Functions, Recorder, Client
"""
