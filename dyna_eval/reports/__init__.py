"""From stored results to reports: pure functions over what the store holds, and a row's words and digits.

`statistics` computes figures; `measured_report`, `imported_report` and `joined_report` build a `Report`,
which `dyna_eval.tables`, `latex` and `plots` show.
"""
