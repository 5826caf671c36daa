"""What identity says of organisations that money goes by: their plans, and what they have reserved."""
