"""dyna-eval: ablations of speculative decoding, from a sweep file to a table that can be defended."""

__version__ = "0.1.0"
