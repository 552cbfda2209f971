"""HTTP triggers served: a request becomes an event, what the function returns becomes the response.

resource ─▶ which trigger (server.api.urls) ─▶ cors ─▶ gate (who may) ─▶ events ─▶ the call ─▶ answers
"""
