"""Figures of a report: bars, curves, heat maps and distributions, each as PDF, SVG and PNG.

`gallery` says which figures there are, `look` how all of them look, and there is a module per family. Their
data comes from `dyna_eval.series`. Importing this loads no matplotlib.
"""

from dyna_eval.plots.gallery import FIGURES, Drawing, Plan, Wish, ablation_bars, plan, write

__all__ = ["FIGURES", "Drawing", "Plan", "Wish", "ablation_bars", "plan", "write"]
