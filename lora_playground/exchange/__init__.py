"""Adapters from elsewhere become runs, and finished runs become files for other tools; knows no queue and no page."""
