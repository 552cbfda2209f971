"""What clients of a small SDK, laid out like tencentcloud's, were told; Python 2.7 too."""

import sys


def main(event, context):
    before = list(sys.modules)
    from tencentcloud.common import abstract_client, http_profile

    class Client(abstract_client.AbstractClient):
        _service = event["service"]

    http = http_profile.HttpProfile(endpoint=event.get("named"))
    profile = abstract_client.ClientProfile(http) if event.get("named") or event.get("profile") else None
    client = Client("c", "r", profile)
    return {
        "endpoint": client.profile.httpProfile.endpoint,
        "scheme": client.profile.httpProfile.scheme,
        "given": http.endpoint,
        "loader": type(abstract_client.__spec__.loader).__name__ if hasattr(abstract_client, "__spec__") else "",
        "doc": abstract_client.AbstractClient.__init__.__doc__,
        "finders": [type(finder).__name__ for finder in sys.meta_path].count("_SdkFinder"),
        "preloaded": "tencentcloud" in before,
    }
