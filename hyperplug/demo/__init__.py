"""`hyperplug demo`: the whole of hyperplug at work on a real server, in a few minutes."""
