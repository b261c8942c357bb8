"""What one worker reaches on this machine, what bounds it, and how many of them a job needs."""
