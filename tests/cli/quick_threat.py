"""A threat model that costs next to nothing, for tests of what is around it."""

QUICK = """
norm = "linf"
eps = "8/255"
aim = "hide"
objective = "score"
start = "ood"
init = "ball"
attack = "apgd"
queries = 3
restarts = 1
iterate = "best"
source = "test"
"""
