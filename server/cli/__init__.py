"""The `hearth` command: everything reaches its data by HTTP, but `up`, which starts the processes."""
