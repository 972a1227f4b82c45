"""Before the package of this name on the path of the processes that tests start.

MMEngine and MMDetection import it and scikit-learn where they are installed, which takes half of
the time that a process takes to start. Most installations have neither.
"""

raise ImportError("tests' processes go without it")
