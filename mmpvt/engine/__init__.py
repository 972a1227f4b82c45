"""What MMEngine's runner lacks: checks before a run, resumable loops, hooks, command lines.

Nothing is imported here: a tool that reads a config has no need of MMDetection's data sets.
"""
