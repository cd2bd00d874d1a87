"""The machine the app runs on: child processes, memory, devices. Nothing here knows models, runs or screens."""
