"""What every figure shows, as plain values: from a report, and the record behind it, to series of numbers.

Pure functions and frozen dataclasses; `dyna_eval.plots` draws them on paper, and a page may draw the same.
A function raises NothingToDrawError where the sweep holds no data for its figure.
"""
