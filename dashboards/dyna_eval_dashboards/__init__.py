"""The web dashboard: pages over a store that nothing can be written to."""
