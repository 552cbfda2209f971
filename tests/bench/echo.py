"""The reference of warm calls: the least that Falcon under gunicorn can do with a body, our settings and loop."""

from __future__ import annotations

import falcon.asgi


class Echo:
    """Any path: the body comes back."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.data = await req.stream.read()


app = falcon.asgi.App()
app.add_route("/echo", Echo())
