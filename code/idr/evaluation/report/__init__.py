"""The page that shows a run, and the overview of the demo."""
