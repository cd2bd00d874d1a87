"""What a run will cost before it is started: parameters, memory and time, from sizes and from earlier runs."""
