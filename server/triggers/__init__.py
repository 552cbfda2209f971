"""Triggers: what makes events of a function by itself. Each type is one entry of `kinds.Kinds`; timers fire in the dispatcher."""
