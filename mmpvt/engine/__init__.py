"""What MMEngine's runner lacks: friendly start-up, checks, pictures, runs that can be stopped.

Nothing is imported here: a tool that reads a config has no need of MMDetection's data sets.
"""
