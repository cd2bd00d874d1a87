"""Jobs: the queue, the worker process, and the pipeline of one run."""
