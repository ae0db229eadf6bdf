"""Several processes that train or evaluate one model together: what each one holds, and how they are started."""
