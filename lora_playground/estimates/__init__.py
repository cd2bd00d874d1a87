"""Estimates what a run will cost before it is started: parameters, memory and time, from sizes and earlier runs."""
