"""How well adapters carry their tasks: arms compared on the same held-out examples."""
