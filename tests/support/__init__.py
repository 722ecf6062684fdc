"""What the tests of the warehouse and its benchmark share."""
