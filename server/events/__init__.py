"""Asynchronous calls: a durable queue, the dispatcher that runs what waits in it, retries, dead letters.

    API, timers, buckets ── put ──▶ events ── claim ──▶ dispatcher ── settle ──▶ invocations (the record)
                                      ▲                     │    └──────────────▶ dead_letters ──▶ file, URL, function
                                      └────── retry ────────┘
An event is a row of `events` from the commit that acknowledged it until the one that settles it: the same transaction takes the row away
and writes its record. Who claims a row gets a lease and raises its epoch; a settlement names the epoch, so a dispatcher that lost its
lease settles nothing.
"""
