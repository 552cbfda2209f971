"""What can be asked for: one function an operation, and the table that finds it. They know no HTTP but the Call and the Answer."""
