"""HTTP and everything unprivileged: the API, functions, records and the `hearth` command."""
