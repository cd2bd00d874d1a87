"""Jobs: the queue (`supervisor`, `dispatcher`, `store`), the worker process (`worker`, `runner`), and what it does for
one run from config to result (`pipeline`, `execution`, `scoring`)."""
