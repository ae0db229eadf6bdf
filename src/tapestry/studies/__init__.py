"""What the studies in `studies/` share: trainings with settings of their own, and tables with intervals."""
