"""Load that checks every answer, kills under it, figures that may not grow. `scripts/soak` runs it long, the tests run it short."""
