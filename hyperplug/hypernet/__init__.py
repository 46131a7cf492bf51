"""The hypernetwork: its model, training, checkpoints and use. Never touches the registry."""
