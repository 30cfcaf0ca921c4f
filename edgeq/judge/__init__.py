"""Does another runtime still see? A server or a checkpoint is asked what a reference is asked, and held beside it."""
