"""Running a sweep on Ray: one controller, its cluster and workers, and what to do when something fails."""
