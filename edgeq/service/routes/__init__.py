"""What each path of the service does, and the schemas of its requests and answers."""
