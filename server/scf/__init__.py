"""SCF's own interfaces, API 3.0 and API 2.0: signatures, envelopes, and the translation of actions into calls of the services.

request ─▶ api3 | api2 ─▶ authentication ─▶ table ─▶ actions/NOUN ─▶ server.functions, Calls, records …
                              signatures      (no logic of their own: parameters in, SCF's model out)
"""
