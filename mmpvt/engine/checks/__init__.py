"""What is checked before a run starts, so that it doesn't fail hours into it."""
