"""What the tests of calls share."""
