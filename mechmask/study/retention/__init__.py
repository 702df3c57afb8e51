"""What the retention protocol consists of: groups of facts, later tasks, what is read, what the readings say."""
