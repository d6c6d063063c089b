"""What the integration tests share: real processes, and clients of our own."""
