"""Chapter 3: what a distiller is asked (`prompts`), what it said (`parsing`), and whether it may teach (`quality`).

What that is going to cost is in `forecast`, what it may cost in `budget`, and what it did cost in `cost`.
"""
